"""New data for a run: read it, merge it with the tidy tables, and look for mistakes in it."""
