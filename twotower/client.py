"""Clients of the served model for other services: they import only NumPy and tritonclient.

    from twotower.client import RetrievalClient

    with RetrievalClient("127.0.0.1:8000") as client:
        answer = client.recommend([42, 43], k=10)

`AsyncRetrievalClient` has the same methods for asyncio. Both raise `ServingError`.
"""

from twotower.serving.client import AsyncRetrievalClient, Recommendations, RetrievalClient
from twotower.serving.runtime.errors import ServingError

__all__ = ["AsyncRetrievalClient", "Recommendations", "RetrievalClient", "ServingError"]
