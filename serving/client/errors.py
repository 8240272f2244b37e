"""Errors of the clients, and which error of tritonclient means what."""

from __future__ import annotations

from asyncio import TimeoutError as AsyncTimeoutError  # before Python 3.11 a class of its own

from tritonclient.utils import InferenceServerException

from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton.control import NoAnswerError

GRPC_CONNECTION_FAILURES = (
    "failed to connect",
    "connection refused",
    "connection reset",
    "socket closed",
    "stream removed",
    "goaway",
    "broken pipe",
    "endpoint",
    "status: 502",  # of a gateway, which lost the connection to a server
)
"""Parts of gRPC's own messages with the status UNAVAILABLE. Triton uses that status, too."""


class RefusedError(ServingError):
    """The server answered with an error."""


class ConnectionFailedError(NoAnswerError):
    """The connection could not be made or was lost before the answer."""


def serving_error(error: Exception, address: str, timeout: float) -> ServingError:
    """Convert an error of tritonclient, asyncio, aiohttp or a socket.

    Parameters
    ----------
    error : Exception
        The error.
    address : str
        Address of the server, for the message.
    timeout : float
        The time limit in seconds, for the message.

    Returns
    -------
    ServingError
        `ConnectionFailedError`, another `NoAnswerError` (a time-out), or `RefusedError`.
    """
    if isinstance(error, InferenceServerException):
        return _server_error(error, address)
    if isinstance(error, (TimeoutError, AsyncTimeoutError)):
        return NoAnswerError(f"{address}: no answer (timed out; limit {timeout:g} s)")
    return ConnectionFailedError(f"{address}: no connection ({error or type(error).__name__})")


def _server_error(error: InferenceServerException, address: str) -> ServingError:
    message = f"{address}: {error.message()}"
    if error.status() == "StatusCode.DEADLINE_EXCEEDED":
        return NoAnswerError(message)
    if error.status() == "StatusCode.UNAVAILABLE":
        text = str(error.message()).lower()
        failed = any(part in text for part in GRPC_CONNECTION_FAILURES)
        return ConnectionFailedError(message) if failed else NoAnswerError(message)
    return RefusedError(message)
