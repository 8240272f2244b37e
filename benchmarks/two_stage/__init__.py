"""Benchmarks of filters and of the second stage."""
