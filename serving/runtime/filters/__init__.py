"""Predicates over columns of the items: parsed, evaluated, and kept as masks."""
