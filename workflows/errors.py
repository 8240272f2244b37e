"""The error that every reader and writer of data raises."""


class DataError(ValueError):
    """The data is wrong; the message says what is wrong, where, and what to do."""
