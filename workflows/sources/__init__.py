"""Data sources: one class per data format (see `base.Source`)."""
