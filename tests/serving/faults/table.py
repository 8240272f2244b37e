"""The fault table: invalid requests of clients, and how the served model answers them.

Each fault states the status, text that the message contains, or a request with the same answer.
After each of them the server must be ready and answer correctly, and no message may show internals
of the server.
"""

from __future__ import annotations

from tests.serving.faults.bad_connections import CONNECTIONS, GRPC, HTTP, RESTRICTED
from tests.serving.faults.bad_events import EVENTS
from tests.serving.faults.bad_filters import FILTERS
from tests.serving.faults.bad_ranking import RANKING
from tests.serving.faults.bad_requests import JSON, PARAMETERS, PATHS, TENSORS
from tests.serving.faults.fault import Fault

FAULTS: list[Fault] = [
    *TENSORS,
    *PARAMETERS,
    *FILTERS,
    *RANKING,
    *EVENTS,
    *PATHS,
    *JSON,
    *HTTP,
    *CONNECTIONS,
    *GRPC,
    *RESTRICTED,
]
