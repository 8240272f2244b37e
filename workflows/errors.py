"""The error every reader and writer of data raises."""


class DataError(ValueError):
    """The data is not what it should be; the message says what, where and what to do."""
