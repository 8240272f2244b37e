"""LightGCN: vectors of ids, propagated over the graph of users and items."""
