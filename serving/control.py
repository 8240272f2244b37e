"""Asks a running Triton to load what the repository now holds."""

from __future__ import annotations

import contextlib
import json
import re
from http.client import HTTPConnection, HTTPException

from .errors import ServingError

MODEL_NAME = "retrieval"
KEY_HEADER = "twotower-key"


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

    def load(self, model: str = MODEL_NAME) -> None:
        """Load the version that config.pbtxt now names; return once it has taken over.

        Raises
        ------
        ServingError
            with the server's reason; the version loaded before goes on answering
        """
        # http.client asks no web proxy, whatever the environment names.
        connection = HTTPConnection(self.address, timeout=self.timeout)
        try:
            path = f"/v2/repository/models/{model}/load"
            connection.request("POST", path, "{}", {KEY_HEADER: self.key})
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except (OSError, HTTPException) as error:
            raise ServingError(
                f"{self.address}: no answer ({error}; limit {self.timeout:g} s)"
            ) from error
        finally:
            connection.close()
        if answer.status != 200:
            raise ServingError(f"{self.address}: {_reason(text)}")


def _reason(text: str) -> str:
    """What Triton gives as the reason, without the states it went through and the traceback."""
    with contextlib.suppress(ValueError, LookupError, TypeError):
        text = json.loads(text)["error"]
    without_trace = text.split("\n\nAt:")[0]
    return re.sub(r".* is at UNAVAILABLE state: (Internal: )?", "", without_trace).strip()
