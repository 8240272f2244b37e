"""The query tower and the candidate tower: embeddings, list pooling, hidden layers."""
