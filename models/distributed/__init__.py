"""Training by several processes, each on its part of every batch, through Horovod."""
