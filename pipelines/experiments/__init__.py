"""Experiments: variants side by side, and a search for better settings."""
