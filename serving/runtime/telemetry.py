"""The model's own metrics, which Triton publishes for Prometheus, and its log lines.

docs/serving.md lists the metrics. Each metric has the version that counted as a label.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import triton_python_backend_utils as pb_utils

from .engine import Counts
from .live.state import STORE_UP

PUBLISH_LIMIT_SECONDS = 10
FLUSH_SECONDS = 1.0
"""Interval between updates: one increment takes 0.1 ms, which is too long to do per request."""

DESCRIPTIONS = {
    "twotower_requests_total": "Requests by outcome: answered, refused (400), failed (500)",
    "twotower_batches_total": "Calls of the model, each with all requests that were waiting",
    "twotower_users_total": "Users asked for, by whether they are in the user table",
    "twotower_users_cached_total": "Known users whose query vector was cached",
    "twotower_items_hidden_total": "Seen items hidden from the users who have seen them",
    "twotower_stage_seconds_total": "Seconds spent in each stage of answering",
    "twotower_events_total": "Events by source: recorded by this server, read from the store",
    STORE_UP: "1 if the store of events can be used, 0 if answers are from the last known state",
    "twotower_version_info": "1 for a loaded version, with the hash of its towers",
}
GAUGES = (STORE_UP,)
"""Those of the counts that go up and down."""


class Metrics:
    """Publishes counts once per second, in its own thread.

    Parameters
    ----------
    version : str
        The label of every metric.
    identity : dict of str to str
        Labels of `twotower_version_info`.
    counts : callable
        Returns the counts since the process started; they only grow.
    """

    def __init__(
        self, version: str, identity: dict[str, str], counts: Callable[[], Counts]
    ) -> None:
        self.version, self.counts = version, counts
        # Counts of the warm-up are not published.
        self.published = dict(counts())
        kind = pb_utils.MetricFamily
        self.families = {
            name: kind(
                name=name,
                description=text,
                kind=kind.COUNTER if name.endswith("_total") else kind.GAUGE,
            )
            for name, text in DESCRIPTIONS.items()
        }
        self.metrics: dict[tuple[str, str, str], Any] = {}
        self.info = self.families["twotower_version_info"].Metric(
            labels={"version": version, **identity}
        )
        self.info.set(1)
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._publish_regularly, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Publish the last counts, and that the version is no longer loaded."""
        self.stopped.set()
        self.thread.join()

    def _publish_regularly(self) -> None:
        triton, stopping = os.getppid(), False
        while not stopping:
            stopping = self.stopped.wait(FLUSH_SECONDS)
            # If Triton was killed, publishing would block forever while holding the locks that the
            # Python backend needs to notice that and to clean up.
            if os.getppid() != triton:
                return
            # If Triton is killed meanwhile, the alarm ends this process.
            signal.alarm(PUBLISH_LIMIT_SECONDS)
            self._publish()
            # While a version is loaded again, two processes share this label: what the old one sets
            # as it stops, the new one corrects a second later. A sum of the two would stay wrong
            # after a process that was killed.
            self.info.set(0 if stopping else 1)
            signal.alarm(0)

    def _publish(self) -> None:
        for key, count in self.counts().items():
            if key[0] in GAUGES:
                self._metric(*key).set(count)
            elif count > self.published.get(key, 0):
                self._metric(*key).increment(count - self.published.get(key, 0))
                self.published[key] = count

    def _metric(self, name: str, label: str, value: str) -> Any:
        key = (name, label, value)
        if key not in self.metrics:
            labels = {"version": self.version, **({label: value} if label else {})}
            self.metrics[key] = self.families[name].Metric(labels=labels)
        return self.metrics[key]


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write one line of JSON to stderr, which Triton writes to the server's log."""
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "level": logging.getLevelName(level),
        "event": event,
        **fields,
    }
    # As one write, so that lines of two versions do not mix.
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()
