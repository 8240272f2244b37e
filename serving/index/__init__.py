"""Choosing the kind of the item index by size, memory and recall."""
