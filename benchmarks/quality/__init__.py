"""Benchmark of quality: the served towers beside EASE, the grids, the speed of ranking."""
