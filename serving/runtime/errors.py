"""The errors of serving."""


class ServingError(RuntimeError):
    """Serving failed, or cannot do what was asked; the message says what to do."""


class RequestError(ServingError):
    """The request is wrong; the message names the input or parameter. Triton answers with 400."""
