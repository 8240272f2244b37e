"""Benchmark of quality: the most accurate towers beside EASE, the grids, the ranking's speed."""
