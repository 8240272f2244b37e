"""What the model tells its operators: Prometheus counters beside Triton's own, and log lines.

Names and meanings are listed in the README. Every metric carries the version that counted.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import triton_python_backend_utils as pb_utils

from .step import Counts

PATIENCE_SECONDS = 10
FLUSH_SECONDS = 1.0
"""Triton takes 0.1 ms to hear of one increment: too long for a request, nothing for a second."""

DESCRIPTIONS = {
    "twotower_requests_total": "Requests by outcome: answered, refused (400), failed (500)",
    "twotower_batches_total": "Calls of the model, each with all the requests that were waiting",
    "twotower_users_total": "Users asked for, by whether the user table knows them",
    "twotower_users_cached_total": "Known users whose query vector was at hand",
    "twotower_items_hidden_total": "Seen items hidden from the users who have seen them",
    "twotower_stage_seconds_total": "Seconds spent in each stage of answering",
    "twotower_version_info": "1 for a version that is loaded, with what it was made of",
}


class Metrics:
    """Publishes growing counts once a second from a thread of its own.

    Parameters
    ----------
    version : the label of every metric
    identity : labels of `twotower_version_info`
    counts : the counts since the process started
    """

    def __init__(
        self, version: str, identity: dict[str, str], counts: Callable[[], Counts]
    ) -> None:
        self.version, self.counts = version, counts
        self.told = Counter(counts())  # what the warm-up has counted is nobody's
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
        # Not set: a version that is loaded anew is loaded twice for a moment, under one label.
        self.info.increment(1)
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._keep_telling, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Tell the last counts, and that the version is loaded no more."""
        self.stopped.set()
        self.thread.join()

    def _keep_telling(self) -> None:
        triton, stopping = os.getppid(), False
        while not stopping:
            stopping = self.stopped.wait(FLUSH_SECONDS)
            # A Triton that was killed hears nothing: telling would wait for ever, with the locks
            # that the Python backend needs to see that it is alone and to clean up.
            if os.getppid() != triton:
                return
            # Killed while it is told: then the kernel ends this process, too.
            signal.alarm(PATIENCE_SECONDS)
            self._tell()
            if stopping:
                self.info.increment(-1)
            signal.alarm(0)

    def _tell(self) -> None:
        for key, count in self.counts().items():
            if count > self.told[key]:
                self._metric(*key).increment(count - self.told[key])
                self.told[key] = count

    def _metric(self, name: str, label: str, value: str) -> Any:
        key = (name, label, value)
        if key not in self.metrics:
            labels = {"version": self.version, **({label: value} if label else {})}
            self.metrics[key] = self.families[name].Metric(labels=labels)
        return self.metrics[key]


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """One line of JSON on stderr, which Triton passes on to the server's log."""
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "level": logging.getLevelName(level),
        "event": event,
        **fields,
    }
    # In one write, so that lines of two versions do not mix.
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()
