"""Measuring models on the parts of a split."""
