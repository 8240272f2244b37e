"""Events in a stream of Redis, which several servers share."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .rules import Event
from .store import MANY, Stored, StoreError, as_event, as_position, as_text

LIMIT_SECONDS = 0.25
"""How long an answer waits for Redis."""
FIELD = "event"


class RedisStore:
    """Keeps events in a stream of Redis. A position is the id of an entry: milliseconds, number.

    Whether Redis keeps them after it ends is its own setting; see docs/events.md.

    Parameters
    ----------
    address : str
        redis://<host>:<port>/<database>, or rediss:// for TLS.
    stream : str
        Name of the stream.
    password : str, optional
    """

    def __init__(self, address: str, stream: str, password: str | None = None) -> None:
        self.stream, self.last = stream, "0-0"
        self.place = urlsplit(address).netloc.rpartition("@")[2]
        try:
            self.client = redis.Redis.from_url(
                address,
                password=password,
                decode_responses=True,
                socket_timeout=LIMIT_SECONDS,
                socket_connect_timeout=LIMIT_SECONDS,
                # Once and at once, for a connection that Redis has closed: requests are waiting.
                retry=Retry(NoBackoff(), 1),
            )
        except ValueError as error:
            raise StoreError(f"serving.events.redis: {error}") from error

    @cached_property
    def identity(self) -> str:
        """Made by whichever process comes first."""
        name = f"{self.stream}:identity"
        with self._explained():
            self.client.set(name, secrets.token_hex(16), nx=True)
            return str(self.client.get(name))

    def append(self, events: Sequence[Event]) -> None:
        with self._explained():
            pipeline = self.client.pipeline(transaction=True)
            for event in events:
                pipeline.xadd(self.stream, {FIELD: as_text(event)})
            pipeline.execute()

    def read_new(self) -> list[Stored]:
        found: list[Stored] = []
        last = self.last
        with self._explained():
            while entries := self._entries_after(last):
                found += [
                    Stored(as_position(name), event)
                    for name, fields in entries
                    if (event := as_event(fields.get(FIELD))) is not None
                ]
                last = entries[-1][0]
                if len(entries) < MANY:
                    break
        self.last = last
        return found

    def close(self) -> None:
        self.client.close()

    def _entries_after(self, last: str) -> list[tuple[str, dict[str, str]]]:
        answer: Any = self.client.xread({self.stream: last}, count=MANY)
        return answer[0][1] if answer else []

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError, ValueError, LookupError) as error:
            raise StoreError(
                f"Redis at {self.place} cannot be used ({error}); start it, or correct "
                "serving.events.redis"
            ) from error
