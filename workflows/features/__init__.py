"""Positives and features: which columns the towers see and how NVTabular encodes them."""
