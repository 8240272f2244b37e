"""Run parts of the work in several processes, on this machine or on a Dask cluster."""
