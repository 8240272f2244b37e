"""Cost against size, from ingest to serving."""
