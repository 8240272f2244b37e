"""Keeps what was answered to whom, so that an experiment can be judged."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..live.rules import Event
from ..live.store import EventStore, StoreError

FLUSH_SECONDS = 1.0
MAX_ITEMS = 100
"""Number of items of an answer that are kept: lists that people see are not longer."""
MAX_WAITING = 100_000
"""Number of answers that wait for the store; more are dropped and counted."""
USER, TIME, ITEMS, VERSION = "user", "time", "items", "version"
"""Keys of a kept answer."""


class Batch(NamedTuple):
    """Answers given at a time: users [n], items [n, k], how many of them each got, versions [n]."""

    seconds: int
    user_ids: np.ndarray
    items: np.ndarray
    counts: np.ndarray
    versions: np.ndarray


class AnswerLog:
    """Writes answers to a store in a thread of its own, once per second.

    Answers of the last second are lost if the process is killed: unlike events, they are not
    acknowledged to anybody.

    Parameters
    ----------
    store : EventStore
        For answers, with a connection of its own.
    log : callable
        Gets an event, a level and fields.

    Attributes
    ----------
    dropped : int
        Answers that were not kept, because the store could not take them.
    """

    def __init__(self, store: EventStore, log: Callable[..., None]) -> None:
        self.store, self.log = store, log
        self.waiting: list[Batch] = []
        self.rows = self.dropped = 0
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._write_regularly, daemon=True)
        self.thread.start()

    def add(
        self, user_ids: np.ndarray, items: np.ndarray, scores: np.ndarray, versions: np.ndarray
    ) -> None:
        """Keep the answers to users [n] by versions [n].

        Items [n, k] are ids as given, with scores of the same shape, -inf where there is none.
        """
        items = items[:, :MAX_ITEMS]
        counts = np.isfinite(scores[:, :MAX_ITEMS]).sum(axis=1)
        with self.lock:
            if self.rows + len(user_ids) > MAX_WAITING:
                self.dropped += len(user_ids)
                return
            self.rows += len(user_ids)
            self.waiting.append(Batch(int(time.time()), user_ids, items, counts, versions))

    def close(self) -> None:
        """Write what is waiting."""
        self.stopped.set()
        self.thread.join()
        self.store.close()

    def _write_regularly(self) -> None:
        stopping = False
        while not stopping:
            stopping = self.stopped.wait(FLUSH_SECONDS)
            with self.lock:
                waiting, self.waiting, self.rows = self.waiting, [], 0
            if not waiting:
                continue
            answers = [answer for batch in waiting for answer in _answers(batch)]
            try:
                self.store.append(answers)
            except StoreError as error:
                self.dropped += len(answers)
                self.log("answers not kept", logging.ERROR, error=str(error), count=len(answers))


def _answers(batch: Batch) -> list[Event]:
    return [
        {
            TIME: batch.seconds,
            USER: _plain(user),
            VERSION: version,
            ITEMS: [_plain(item) for item in own[:count]],
        }
        for user, version, own, count in zip(
            batch.user_ids.tolist(),
            batch.versions.tolist(),
            batch.items.tolist(),
            batch.counts.tolist(),
            strict=True,
        )
    ]


def _plain(value: Any) -> int | str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
