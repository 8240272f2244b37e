"""Public data sets in the layouts in which they are published, recognised by their content."""
