"""Sources of interactions, users and items."""
