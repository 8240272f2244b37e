"""What the metrics of a run mean, and which recipe suits its data."""
