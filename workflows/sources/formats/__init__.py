"""Read one table from files of any format: parquet, text with separators, or JSON lines."""
