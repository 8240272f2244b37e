"""Cost against size: the steps of a run on data as large as Ali-CCP."""
