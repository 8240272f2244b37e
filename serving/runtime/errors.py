"""The base class of the errors of serving."""


class ServingError(RuntimeError):
    """Serving failed, or cannot do what was asked; the message says what to do."""
