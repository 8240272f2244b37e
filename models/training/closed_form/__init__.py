"""Towers without gradient descent: solved by linear algebra from all interactions at once."""
