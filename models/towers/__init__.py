"""Query and candidate tower: embeddings, pooling, blocks."""
