"""The errors of everything that reads, writes and encodes data."""


class DataError(ValueError):
    """The data is wrong; the message says what is wrong, where, and what to do."""


class ClusterError(RuntimeError):
    """Worker processes are missing or cannot be used; the message says which and what to do."""
