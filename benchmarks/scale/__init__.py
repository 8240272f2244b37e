"""What size costs: the benchmark of large data, by `make bench-scale`."""
