"""Asks a running Triton to load what the repository now holds."""

from __future__ import annotations

import contextlib
import json
import re
from http.client import HTTPConnection, HTTPException

from twotower.serving.runtime.errors import ServingError

MODEL_NAME = "retrieval"
KEY_HEADER = "twotower-key"
QUESTION_SECONDS = 5.0


class NoAnswerError(ServingError):
    """The server did not answer in time; the request may still take effect."""


class ModelControl:
    """The model control of the server at `address`.

    Parameters
    ----------
    address : "host:port" of its HTTP service
    key : what the server asks for (`TritonServer.key`)
    timeout : seconds a load may take
    """

    def __init__(self, address: str, key: str, timeout: float) -> None:
        self.address, self.key, self.timeout = address, key, timeout

    def load(self, model: str = MODEL_NAME, timeout: float | None = None) -> None:
        """Load the version that config.pbtxt now names; return once it has taken over.

        Parameters
        ----------
        model : its name
        timeout : seconds the load may take; None for those of this object

        Raises
        ------
        NoAnswerError
            when the server does not answer in time; it may still finish the load
        ServingError
            with the server's reason; the version loaded before goes on answering
        """
        status, text = self._ask(
            "POST", f"/v2/repository/models/{model}/load", timeout or self.timeout
        )
        if status != 200:
            raise ServingError(f"{self.address}: {_reason(text)}")

    def version(self, model: str = MODEL_NAME) -> int:
        """The version that answers now."""
        status, text = self._ask("GET", f"/v2/models/{model}", QUESTION_SECONDS)
        if status != 200:
            raise ServingError(f"{self.address}: {_reason(text)}")
        return max(map(int, json.loads(text)["versions"]))

    def _ask(self, method: str, path: str, timeout: float) -> tuple[int, str]:
        """Status and text of the server's answer."""
        # http.client asks no web proxy, whatever the environment names.
        connection = HTTPConnection(self.address, timeout=timeout)
        try:
            body = "{}" if method == "POST" else None
            connection.request(method, path, body, {KEY_HEADER: self.key})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except (OSError, HTTPException) as error:
            raise NoAnswerError(
                f"{self.address}: no answer ({error}; limit {timeout:g} s)"
            ) from error
        finally:
            connection.close()


def _reason(text: str) -> str:
    """What Triton gives as the reason, without the states it went through and the traceback."""
    with contextlib.suppress(ValueError, LookupError, TypeError):
        text = json.loads(text)["error"]
    without_trace = text.split("\n\nAt:")[0]
    return re.sub(r".* is at UNAVAILABLE state: (Internal: )?", "", without_trace).strip()
