"""Two-tower retrieval on NVIDIA Merlin: from interactions to recommendations from a real server."""
