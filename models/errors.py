"""The error every model, metric and baseline raises."""


class ModelError(ValueError):
    """A model cannot be built, trained, saved or loaded; the message says why."""
