"""Benchmark of training: speed and memory beside stock Merlin and TFRS, quality, kills."""
