"""Clients of the served model. They import only NumPy and tritonclient."""

from twotower.serving.client.asynchronous import AsyncRetrievalClient
from twotower.serving.client.blocking import RetrievalClient
from twotower.serving.client.requests import Recommendations

__all__ = ["AsyncRetrievalClient", "Recommendations", "RetrievalClient"]
