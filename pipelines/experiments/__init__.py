"""Experiments: compare variants, and search for better settings."""
