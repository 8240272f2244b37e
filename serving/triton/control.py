"""Tells a running Triton to load the published version."""

from __future__ import annotations

import contextlib
import json
import re
from http.client import HTTPConnection, HTTPException

from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.filters.parameters import KEY_HEADER

MODEL_NAME = "retrieval"
SIMILAR_ITEMS, RECOMMEND, EVENTS = "similar_items", "recommend", "events"
FACES = (SIMILAR_ITEMS, RECOMMEND, EVENTS)
"""Models that pass their requests on to the model `retrieval`, of whose versions they are faces."""
QUESTION_SECONDS = 5.0


class NoAnswerError(ServingError):
    """The server did not answer; the request may still take effect."""


class ModelControl:
    """Controls which version a server loads.

    Parameters
    ----------
    address : str
        "host:port" of the server's HTTP service.
    key : str
        The server's key (`TritonServer.key`).
    timeout : float
        Time limit in seconds for a load.
    """

    def __init__(self, address: str, key: str, timeout: float) -> None:
        self.address, self.key, self.timeout = address, key, timeout

    def load(self, model: str = MODEL_NAME, timeout: float | None = None) -> None:
        """Load the version that config.pbtxt names, and return once it answers.

        Parameters
        ----------
        model : str
            Name of the model.
        timeout : float, optional
            Time limit in seconds; by default that of this object.

        Raises
        ------
        NoAnswerError
            If the server does not answer in time. It may still finish the load.
        ServingError
            If the load fails, with the server's reason. The previous version still answers.
        """
        status, text = self._ask(
            "POST", f"/v2/repository/models/{model}/load", timeout or self.timeout
        )
        if status != 200:
            raise ServingError(f"{self.address}: {_reason(text)}")

    def unload(self, model: str) -> None:
        """Unload a model. Raises as `load` does."""
        status, text = self._ask("POST", f"/v2/repository/models/{model}/unload", self.timeout)
        if status != 200:
            raise ServingError(f"{self.address}: {_reason(text)}")

    def version(self, model: str = MODEL_NAME) -> int:
        """Return the version that answers now."""
        status, text = self._ask("GET", f"/v2/models/{model}", QUESTION_SECONDS)
        if status != 200:
            raise ServingError(f"{self.address}: {_reason(text)}")
        return max(map(int, json.loads(text)["versions"]))

    def _ask(self, method: str, path: str, timeout: float) -> tuple[int, str]:
        """Return status and text of the server's answer."""
        # http.client ignores web proxies in the environment.
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
    """Return Triton's reason for an error, without model states and the traceback."""
    with contextlib.suppress(ValueError, LookupError, TypeError):
        text = json.loads(text)["error"]
    without_trace = text.split("\n\nAt:")[0]
    return re.sub(r".* is at UNAVAILABLE state: (Internal: )?", "", without_trace).strip()
