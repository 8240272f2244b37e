"""The Triton side of the served model: requests in, one answer or one error for each out."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from .contract import Contract, K, RequestError, Table
from .manifest import MODEL_FILE

ENGINES = {"compiled": ".plan", "merlin": ".merlin_engine"}


class TritonPythonModel:
    """Reads requests by the contract, runs those of one call together, splits the answers."""

    run: Callable[[Table], Table]

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version this file lies in (`<version>/serving/runtime/`)."""
        version = Path(__file__).resolve().parents[2]
        model = json.loads((version / MODEL_FILE).read_text())
        self.contract = Contract(**model["contract"])
        engine = import_module(ENGINES[model["runtime"]], __package__)
        self.run = engine.load(version, model["threads"])
        # Ready means that a request has gone through: what loads late or is broken shows here.
        self.run(self.contract.read({self.contract.user_id: np.zeros((1, 1), np.int64)}, {}))

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request; a wrong one fails alone."""
        responses: list[Any] = [None] * len(requests)
        tables = {}
        for position, request in enumerate(requests):
            try:
                tables[position] = self._read(request)
            except RequestError as error:
                responses[position] = _error(str(error), "INVALID_ARG")
            except Exception:
                pb_utils.Logger.log_error(traceback.format_exc())
                responses[position] = _internal_error(request)
        answers = self._answer(list(tables.values()))
        for position, answer in zip(tables, answers, strict=True):
            responses[position] = (
                pb_utils.InferenceResponse([pb_utils.Tensor(*pair) for pair in answer.items()])
                if answer is not None
                else _internal_error(requests[position])
            )
        return responses

    def _read(self, request: Any) -> Table:
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        return self.contract.read(inputs, json.loads(request.parameters() or "{}"))

    def _answer(self, tables: list[Table]) -> list[Table | None]:
        """The answer to each table; None where the engine failed, which the log tells."""
        if not tables:
            return []
        try:
            together = self.run(
                {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}
            )
        except Exception:
            if len(tables) > 1:
                return [answer for table in tables for answer in self._answer([table])]
            pb_utils.Logger.log_error(traceback.format_exc())
            return [None]
        bounds = np.cumsum([len(table[K]) for table in tables])[:-1]
        split = {name: np.split(column, bounds) for name, column in together.items()}
        return [
            {
                name: np.ascontiguousarray(parts[i][:, : table[K][0]])
                for name, parts in split.items()
            }
            for i, table in enumerate(tables)
        ]


def _internal_error(request: Any) -> Any:
    return _error(
        f"internal error (request id '{request.request_id()}'); the server's log has the cause",
        "INTERNAL",
    )


def _error(message: str, code: str) -> Any:
    """An error response; before 2.38 Triton has no codes and answers every error with 500."""
    code = getattr(pb_utils.TritonError, code, None)
    error = pb_utils.TritonError(message) if code is None else pb_utils.TritonError(message, code)
    return pb_utils.InferenceResponse(error=error)
