"""Interactions, users and items from parquet files with any column names."""
