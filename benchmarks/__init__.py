"""Benchmarks of the project; each writes its figures to a file in benchmarks/results."""
