"""Metrics on the full catalogue, and baselines."""
