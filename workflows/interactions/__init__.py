"""Read stored interactions of which only the positives fit in memory."""
