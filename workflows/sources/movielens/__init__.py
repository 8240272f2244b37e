"""MovieLens-1M and MovieLens-100K in their official layouts."""
