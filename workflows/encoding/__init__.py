"""Vocabularies counted, and tables encoded, in parts that processes can share."""
