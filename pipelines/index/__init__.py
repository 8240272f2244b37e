"""The item index of a run: which kind it is, and the queries that measure it."""
