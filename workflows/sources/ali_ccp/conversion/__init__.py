"""Conversion of the text files to parquet: parsing, joining, and what is left out."""
