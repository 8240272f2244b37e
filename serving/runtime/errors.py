"""The error the server, the client and the export raise."""


class ServingError(RuntimeError):
    """Serving failed or was asked for something impossible; the message says what to do."""
