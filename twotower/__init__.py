"""Two-tower retrieval on NVIDIA Merlin: from interactions to recommendations from a real server.

Examples
--------
>>> import twotower
>>> recommender = twotower.fit(
...     ratings, user="user_id", item="movie_id", time="timestamp"
... )  # doctest: +SKIP
>>> recommender.recommend([42, 43], k=10)  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twotower.api import Recommender as Recommender
    from twotower.api import fit as fit
    from twotower.api import load as load

_HOME = {"Recommender": "twotower.api", "fit": "twotower.api", "load": "twotower.api"}
"""Public name -> its module, which is imported when the name is first used."""

__all__ = ["Recommender", "fit", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'twotower' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
