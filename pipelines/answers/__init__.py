"""Answers for many users or items at once, in this process: recommend, vectors, similar."""
