"""Opens the store of events that the settings name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .sqlite_store import SqliteStore
from .store import EVENTS, EventStore

SETTINGS, KEY = "TWOTOWER_EVENTS", "TWOTOWER_EVENTS_KEY"
"""Environment variables of the server's process: the settings of the store as JSON, without which
there are no events, and the key that a client must send to record some."""
PASSWORD = "TWOTOWER_REDIS_PASSWORD"
STORE, REDIS, STREAM = "store", "redis", "stream"
SQLITE = "sqlite"
FILE = "events.sqlite"


def events_path(version: Path) -> Path:
    """Return the path of the file, for a version in <repository>/<model>/<number>/."""
    return version.parents[1] / FILE


def open_store(settings: Mapping[str, str], path: Path, channel: str = EVENTS) -> EventStore:
    """Open the store that settings name.

    Parameters
    ----------
    settings : mapping of str to str
        `STORE` is sqlite or redis; for redis, `REDIS` is its address and `STREAM` the name of the
        stream. The password is in the environment variable `PASSWORD`, if there is one.
    path : Path
        The file of sqlite.
    channel : str
        `EVENTS` or `ANSWERS`.

    Raises
    ------
    ServingError
        If the file is no store, or the address no address. Redis may be out of reach.
    """
    if settings[STORE] == SQLITE:
        return SqliteStore(path, channel)
    from .redis_store import RedisStore  # its library takes 20 MB

    stream = settings[STREAM] if channel == EVENTS else f"{settings[STREAM]}:{channel}"
    return RedisStore(settings[REDIS], stream, os.environ.get(PASSWORD))
