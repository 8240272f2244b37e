"""Evaluation on the full catalogue: ranking, metrics, popularity, and the baselines."""
