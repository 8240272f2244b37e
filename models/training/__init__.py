"""Fitting a model: data, batches, optimizers, callbacks, saving."""
