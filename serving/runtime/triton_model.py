"""The class that Triton's Python backend calls: it answers each request or returns its error."""

from __future__ import annotations

import gc
import json
import logging
import os
import secrets
import time
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from .contract import ARM, SCORE, Table
from .engine import STAGE_SECONDS, Counts
from .errors import RequestError
from .experiment.answers import AnswerLog
from .experiment.arm import Arm, kind_of
from .experiment.loading import load_treatment
from .experiment.split import Split, merge, take
from .filters.denied import DeniedItems, denied_path
from .filters.parameters import CANDIDATES, K
from .live.opening import KEY, events_path, open_store
from .live.recording import RECORDED, Recording, is_recording, take_key
from .live.rules import Event
from .live.state import LiveState, store_settings
from .live.store import ANSWERS, StoreError
from .operators.ids import serialize_texts
from .telemetry import Metrics, log

MAX_MESSAGE_LENGTH = 500
REQUESTS = "twotower_requests_total"
MAX_PREPARED = 64
"""Largest number of users whose vectors are computed when their events are recorded."""


class TritonPythonModel:
    """Reads the requests of a call, runs them as one table and splits the answers."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version that contains this file (`<version>/twotower/serving/runtime/`)."""
        started = time.perf_counter()
        version = Path(__file__).parents[3]
        self.arm = Arm(version)
        self.contract = self.arm.contract
        self.split: Split | None
        self.treatment: Arm | None
        self.split, self.treatment = load_treatment(self.arm, version)
        self.arms = [self.arm, *([self.treatment] if self.treatment else [])]
        _serialize_quickly()
        self._follow_events(version)
        self.denied = DeniedItems(denied_path(version), self._deny, log)
        self.outcomes = dict.fromkeys(("answered", "refused", "failed"), 0)
        self.seconds, self.batches = dict.fromkeys(("read", "split"), 0.0), 0
        self.metrics = Metrics(version.name, {"towers": self.arm.towers}, self._counts)
        self.of_treatment = None
        if self.treatment:
            identity = {"towers": self.treatment.towers}
            name, counts = str(self.treatment.number), self.treatment.engine.counts
            self.of_treatment = Metrics(name, identity, counts)
        gc.freeze()  # what was loaded stays, so the garbage collector need not examine it again
        seconds = round(time.perf_counter() - started, 3)
        log(
            "loaded",
            version=version.name,
            runtime=self.arm.runtime,
            towers=self.arm.towers,
            seconds=seconds,
            **({"beside": self.treatment.number} if self.treatment else {}),
        )

    def finalize(self) -> None:
        """Publish the last counts; Triton calls this before it unloads the model."""
        self.denied.stop()
        self.metrics.stop()
        if self.of_treatment:
            self.of_treatment.stop()
        if self.answers:
            self.answers.close()
        if self.live:
            self.live.close()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response per request; a wrong request does not affect the others."""
        started = time.perf_counter()
        responses: list[Any] = [None] * len(requests)
        tables: dict[int, Table] = {}
        events: dict[int, list[Event]] = {}
        for position, request in enumerate(requests):
            try:
                read = self._read(request)
                if isinstance(read, list):
                    events[position] = read
                else:
                    tables[position] = read
            except RequestError as error:
                responses[position] = _error(str(error), "INVALID_ARG")
                self.outcomes["refused"] += 1
            except Exception:
                responses[position] = self._failed(request)
        self.seconds["read"] += time.perf_counter() - started
        if events:  # before the answers, which are to take them into account
            for position, response in zip(events, self._record(events), strict=True):
                responses[position] = response
        elif self.live:
            self.live.refresh()
        kinds: dict[str, list[int]] = {}
        for position, table in tables.items():  # each kind is another table
            kinds.setdefault(kind_of(table), []).append(position)
        for positions in kinds.values():
            asked = [requests[position] for position in positions]
            answers = self._answer(asked, [tables[position] for position in positions])
            for position, response in zip(positions, answers, strict=True):
                responses[position] = response
        self.batches += 1
        return responses

    def _deny(self, ids: Sequence[int | str]) -> None:
        for arm in self.arms:
            arm.deny(ids)

    def _follow_events(self, version: Path) -> None:
        """Take into account what users do from now on, if there is a store of events."""
        self.live: LiveState | None = None
        self.recording: Recording | None = None
        self.answers: AnswerLog | None = None
        rules, settings = self.contract.event_rules, store_settings()
        if rules is None:
            return
        if settings:
            path = events_path(version)
            store = open_store(settings, path)
            users = [live for arm in self.arms if (live := arm.follow(store))]
            self.live = LiveState(store, users, log)
            self.live.refresh()
            if self.treatment:
                self.answers = AnswerLog(open_store(settings, path, ANSWERS), log)
        self.recording = Recording(rules, os.environ.get(KEY), self.live is not None)

    def _record(self, events: Mapping[int, list[Event]]) -> list[Any]:
        """Record the events of requests; return the responses."""
        assert self.live and self.recording  # they were read
        try:
            self.live.record([event for each in events.values() for event in each])
        except StoreError as error:
            self.outcomes["failed"] += len(events)
            message = f"nothing was recorded, send it again later: {error}"
            return [_error(message, "UNAVAILABLE") for _ in events]
        self.outcomes["answered"] += len(events)
        rules = self.recording.rules
        self._prepare({event[rules.user] for each in events.values() for event in each})
        name = rules.time
        times = [np.array([[event[name]] for event in each], np.int64) for each in events.values()]
        return [_response({RECORDED: each}) for each in times]

    def _prepare(self, users: Collection[int | str]) -> None:
        """Compute the vectors of users who have done something, before they ask."""
        if len(users) > MAX_PREPARED:
            return
        try:
            for arm in self.arms:
                arm.prepare(users)
        except Exception:  # the events are recorded, which is what was asked
            log("vectors not prepared", logging.ERROR, error=traceback.format_exc())

    def _read(self, request: Any) -> Table | list[Event]:
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        try:
            text = request.parameters()
            parameters = json.loads(text) if text and text != "{}" else {}
        except UnicodeDecodeError as error:
            raise RequestError(f"the parameters are not UTF-8 ({error})") from error
        key = take_key(parameters)
        if self.recording and is_recording(inputs):
            return self.recording.read(inputs, parameters, key)
        return self.contract.read(inputs, parameters)

    def _answer(self, requests: list[Any], tables: list[Table]) -> list[Any]:
        """Answer the requests as one table; if that fails, one by one."""
        if not tables:
            return []
        try:
            together = self._run(tables)
        except Exception:
            if len(tables) == 1:
                return [self._failed(requests[0])]
            alone = zip(requests, tables, strict=True)
            return [self._answer([request], [table])[0] for request, table in alone]
        started = time.perf_counter()
        responses = [_response(answer) for answer in _split(together, tables)]
        self.outcomes["answered"] += len(tables)
        self.seconds["split"] += time.perf_counter() - started
        return responses

    def _run(self, tables: list[Table]) -> Table:
        """Answer the tables of requests as one table, with ids as the clients give them."""
        joined = self.contract.join(tables)
        user_id = self.contract.user_id
        if self.split is None or self.treatment is None or user_id not in joined:
            answer = self.arm.run(joined)
            if CANDIDATES in joined:  # an ensemble must have each of its outputs
                answer[ARM] = np.full((len(joined[K]), 1), self.arm.number)
            return answer
        users = joined[user_id]
        treated = self.split.treated(users.tolist())
        versions = np.where(treated, self.treatment.number, self.arm.number)
        parts = [(self.arm, np.flatnonzero(~treated)), (self.treatment, np.flatnonzero(treated))]
        parts = [(arm, rows) for arm, rows in parts if len(rows)]
        answers = [
            arm.run(joined if len(parts) == 1 else take(joined, rows)) for arm, rows in parts
        ]
        answer = merge(answers, [rows for _, rows in parts])
        if self.answers:
            items, scores = answer[self.contract.item_id], answer[SCORE]
            self.answers.add(users, items, scores, versions)
        return {**answer, ARM: versions[:, None]}

    def _failed(self, request: Any) -> Any:
        """Return the response to a request that caused an internal error, and log the error."""
        number = request.request_id() or secrets.token_hex(4)
        log("failed", logging.ERROR, request_id=number, error=traceback.format_exc())
        self.outcomes["failed"] += 1
        return _error(f"internal error (request id '{number}'); see the server's log", "INTERNAL")

    def _counts(self) -> Counts:
        return {
            **self.arm.engine.counts(),
            **(self.live.counts() if self.live else {}),
            **{(REQUESTS, "outcome", name): count for name, count in self.outcomes.items()},
            **{(STAGE_SECONDS, "stage", name): spent for name, spent in self.seconds.items()},
            ("twotower_batches_total", "", ""): self.batches,
        }


def _split(together: Table, tables: list[Table]) -> Iterator[Table]:
    """Yield the answer to each of the joined tables."""
    if len(tables) == 1:
        yield together
        return
    first = 0
    for table in tables:
        last, k = first + len(table[K]), table[K][0]
        # Triton ignores strides, so the columns must be contiguous.
        yield {n: np.ascontiguousarray(c[first:last, :k]) for n, c in together.items()}
        first = last


def _serialize_quickly() -> None:
    """Replace Triton's loop over texts, which takes longer than finding the items of 256 users.

    All texts of this process's answers are bytes. Older versions of Triton return an array from it,
    and keep their loop.
    """
    own = getattr(pb_utils, "serialize_byte_tensor", None)
    if own and isinstance(own(np.array([b"x"], object)), bytes):
        pb_utils.serialize_byte_tensor = serialize_texts


def _response(answer: Table) -> Any:
    tensors = [pb_utils.Tensor(name, column) for name, column in answer.items()]
    return pb_utils.InferenceResponse(tensors)


def _error(message: str, code: str) -> Any:
    """Return an error response; Triton before 2.38 has no codes and answers errors with 500."""
    message = message[:MAX_MESSAGE_LENGTH]  # it may quote a value of any length
    if hasattr(pb_utils.TritonError, code):
        error = pb_utils.TritonError(message, getattr(pb_utils.TritonError, code))
    else:
        error = pb_utils.TritonError(message)
    return pb_utils.InferenceResponse(error=error)
