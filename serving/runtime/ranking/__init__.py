"""The second stage of the served graph: a model that orders what the towers have found."""
