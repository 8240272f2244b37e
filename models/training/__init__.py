"""Training a two-tower model, from data and batches to saved towers, and updating it."""
