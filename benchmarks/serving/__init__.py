"""Benchmark of the served model: speed, start-up, memory, correctness under load, endurance."""
