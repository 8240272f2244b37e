"""Asks the served model over HTTP or gRPC; needs NumPy and tritonclient alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Literal

import numpy as np
from google.protobuf.json_format import MessageToDict
from tritonclient.utils import InferenceServerException

from twotower.serving.runtime.arrays import expand
from twotower.serving.runtime.contract import FILTER_SEEN, NO_VALUE, NUMPY_DTYPES, K
from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton.control import MODEL_NAME


@dataclass(frozen=True)
class Recommendations:
    """Row i answers user i, best first.

    Attributes
    ----------
    item_ids : int64 [n, k]; -1 where the catalogue has no item left for the user
    scores : float32 [n, k]; -inf there
    version : the version that answered
    """

    item_ids: np.ndarray
    scores: np.ndarray
    version: int


class RetrievalClient:
    """A connection to the model `retrieval`; use it from one thread at a time.

    Parameters
    ----------
    address : "host:port" of the service of that protocol
    timeout : seconds until a request that is not answered raises
    """

    def __init__(
        self, address: str, protocol: Literal["http", "grpc"] = "http", timeout: float = 5.0
    ) -> None:
        if protocol not in ("http", "grpc"):
            raise ServingError(f"protocol is {protocol!r}; expected 'http' or 'grpc'")
        self.address, self.protocol, self.timeout = address, protocol, timeout
        self._service = {"http": _Http, "grpc": _Grpc}[protocol](address, timeout)

    def ready(self) -> bool:
        """Whether the model answers."""
        try:
            return self._ask(self._service.ready)
        except ServingError:
            return False

    def version(self) -> int:
        """The version that answers now."""
        return max(map(int, self._ask(self._service.metadata)["versions"]))

    def recommend(
        self,
        user_ids: Iterable[int],
        k: int = 10,
        filter_seen: bool = True,
        features: Mapping[str, Iterable] | None = None,
    ) -> Recommendations:
        """The k best items for each user; without users an answer without rows.

        Parameters
        ----------
        user_ids : raw ids; an unknown one is answered from the out-of-vocabulary embedding
        filter_seen : leave out what the user has seen: as the server knows it, and the items of a
            history among `features`
        features : raw values, one per user, in place of those the server knows; None, NaN,
            pandas.NA and masked values are null. Of a list feature a list per user, with at most
            4,096 values; null is the empty list

        Raises
        ------
        ServingError
            with the server's message, or what kept the server from answering
        """
        parameters = _parameters(k, filter_seen)
        features = _named({} if features is None else features)
        users = _values(self._user_id, user_ids)
        given = {name: _values(name, values) for name, values in features.items()}
        self._check_given(given, len(users))
        try:
            answer = self._recommend(users, given, parameters)
        except ServingError as error:
            changes = self._changes(error)
            if not changes:
                raise
            try:
                answer = self._recommend(users, given, parameters)
            except ServingError as again:
                raise ServingError(
                    f"{again}; the model's inputs have changed: {changes}"
                ) from again
        self._forget_unless(answer.version)
        return answer

    def close(self) -> None:
        self._service.close()

    def __enter__(self) -> RetrievalClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @cached_property
    def _metadata(self) -> dict[str, Any]:
        """The model's inputs, the user id first, and outputs, the item ids first."""
        return self._ask(self._service.metadata)

    @property
    def _user_id(self) -> str:
        return self._metadata["inputs"][0]["name"]

    def _check_given(self, given: Mapping[str, Sequence], users: int) -> None:
        if self._user_id in given:
            raise ServingError(
                f"input '{self._user_id}' is among the features; give user ids as `user_ids` alone"
            )
        for name, values in given.items():
            if len(values) != users:
                raise ServingError(
                    f"input '{name}' has {len(values)} values, there are {users} users"
                )

    def _recommend(
        self, users: Sequence, given: Mapping[str, Sequence], parameters: dict[str, Any]
    ) -> Recommendations:
        """Send one request."""
        if not len(users):
            names = [each["name"] for each in self._metadata["inputs"]]
            for name in given:
                if name not in names:
                    raise ServingError(
                        f"input '{name}' is unknown; this model takes {', '.join(names)}"
                    )
            if parameters[K] < 1:
                raise ServingError(f"parameter '{K}' is {parameters[K]}; expected 1 or more")
            shape = (0, parameters[K])
            nobody = np.empty(shape, np.int64), np.empty(shape, np.float32)
            return Recommendations(*nobody, self.version())
        inputs = [self._input(self._user_id, users, nullable=False)]
        inputs += [self._input(name, values, nullable=True) for name, values in given.items()]
        answer, version = self._ask(self._service.infer, inputs, parameters)
        names = [output["name"] for output in self._metadata["outputs"]]
        item_ids, scores = (answer.as_numpy(name) for name in names)
        return Recommendations(item_ids, scores, version)

    def _forget_unless(self, version: int) -> None:
        """Read the inputs anew at the next request, if these are not those of `version`."""
        if str(version) not in self._metadata["versions"]:
            del self._metadata

    def _changes(self, error: ServingError) -> str:
        """How the model's inputs have changed since they were read; empty if they have not.

        The server is asked only when it refused the request. After an error of this module, which
        an outdated type may have caused, the next request reads the inputs again.
        """
        before = None if _unanswered(error) else self.__dict__.pop("_metadata", None)
        if before is None or error.__cause__ is None:
            return ""
        try:
            after = self._metadata
        except ServingError:
            return ""  # the caller raises `error`, which says more
        old, new = (
            {each["name"]: each["datatype"] for each in metadata["inputs"]}
            for metadata in (before, after)
        )
        return ", ".join(
            f"{name} was {old.get(name, 'unknown')}, is {new.get(name, 'unknown')} in version "
            f"{max(map(int, after['versions']))}"
            for name in {**old, **new}
            if old.get(name) != new.get(name)
        )

    def _input(self, name: str, values: Sequence, nullable: bool) -> Any:
        """A tensor [n, 1], of lists [n, w], in the type the model wants.

        An unknown name the server answers.
        """
        wanted = {each["name"]: each for each in self._metadata["inputs"]}.get(name)
        datatype = wanted["datatype"] if wanted else "BYTES"
        if wanted is None:
            array = np.array([[repr(value).encode()] for value in values], np.object_)
        elif int(wanted["shape"][-1]) != -1:
            array = _cast(name, values, datatype, nullable).reshape(-1, 1)
        else:
            array = _lists(name, values, datatype)
        tensor = self._service.triton.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        return tensor

    def _ask(self, call: Callable, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except InferenceServerException as error:
            raise ServingError(f"{self.address}: {error.message()}") from error
        except OSError as error:  # a time-out among them
            reason = str(error) or "timed out"
            raise ServingError(
                f"{self.address}: no answer ({reason}; limit {self.timeout:g} s)"
            ) from error


WANTED = {"INT64": "an integer", "FP32": "a number", "FP64": "a number", "BYTES": "text"}
QUICK = {"INT64": {int, bool}, "FP32": {int, bool}, "FP64": {int, bool}, "BYTES": set()}
"""Types that NumPy converts all at once as `_convert` does value by value."""


def _parameters(k: int, filter_seen: bool) -> dict[str, Any]:
    """The parameters in Python's own types; Triton takes no NumPy types."""
    parameters = {}
    for name, value, kind in ((K, k, int), (FILTER_SEEN, filter_seen, bool)):
        parameters[name] = value.item() if isinstance(value, np.generic) else value
        if type(parameters[name]) is not kind:
            expected = "an integer" if kind is int else "a boolean"
            raise ServingError(f"parameter '{name}' is {value!r}; expected {expected}")
    if abs(parameters[K]) >= 2**63:  # gRPC cannot send it; the server checks the others
        raise ServingError(f"parameter '{K}' is {k!r}; expected an integer of 64 bits")
    return parameters


def _named(features: Any) -> Mapping[str, Iterable]:
    """`features` if they are named by text."""
    if not isinstance(features, Mapping):
        kind = type(features).__name__
        raise ServingError(f"features is of type {kind}; expected a dict of names and values")
    for name in features:
        if not isinstance(name, str):
            raise ServingError(f"the name of a feature is {name!r}; expected text")
    return features


def _values(name: str, values: Iterable) -> Sequence:
    """The values of an input as a list or an array [n]; iterators are read here, and only once."""
    is_array = isinstance(values, np.ndarray)
    if isinstance(values, (str, bytes)) or not (is_array or isinstance(values, Iterable)):
        raise ServingError(f"input '{name}' is {values!r}; expected a list, one value per user")
    if is_array and (values.dtype != object or values.ndim != 1):
        return np.atleast_1d(values)
    values = list(values)
    if any(issubclass(kind, Iterator) for kind in set(map(type, values))):  # lists of a feature
        values = [list(value) if isinstance(value, Iterator) else value for value in values]
    return values


def _lists(name: str, rows: Sequence, datatype: str) -> np.ndarray:
    """Lists as a tensor [n, w], padded at the end with `NO_VALUE`, which no list may hold."""
    rows = [[] if _is_null(row) else row for row in rows]
    for row in rows:
        if isinstance(row, (str, bytes)) or not isinstance(row, Iterable):
            raise ServingError(f"input '{name}' holds {row!r}; expected a list per user")
    rows = [row.tolist() if isinstance(row, np.ndarray) else list(row) for row in rows]
    flat = _cast(name, [value for row in rows for value in row], datatype, nullable=False)
    filler = NO_VALUE[datatype].encode() if datatype == "BYTES" else NO_VALUE[datatype]
    if (flat == filler).any():
        raise ServingError(
            f"input '{name}' holds {NO_VALUE[datatype]!r} in a list, which stands for no value; "
            "leave it out"
        )
    counts = np.array([len(row) for row in rows], np.int64)
    return expand(flat, counts, max([1, *counts.tolist()]), filler)


def _cast(name: str, values: Sequence, datatype: str, nullable: bool) -> np.ndarray:
    """Values [m] in a Triton data type, text as UTF-8; null as `NO_VALUE`.

    Raises ServingError naming the first value that is of another kind.
    """
    dtype = NUMPY_DTYPES[datatype]
    if isinstance(values, np.ndarray) and values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if isinstance(values, np.ma.MaskedArray):
        values = list(values)
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iufb":
        has_nulls = values.dtype.kind == "f" and not nullable  # or may have
        quick = not has_nulls and datatype != "BYTES" and np.can_cast(values.dtype, dtype)
    else:
        quick = set(map(type, values)) <= QUICK[datatype]
    if quick:
        with suppress(OverflowError):  # `_convert` names the value
            return np.array(values, dtype)
    converted = np.empty(len(values), dtype)
    for position, value in enumerate(values):
        converted[position] = _convert(name, value, datatype, nullable)
    return converted


def _convert(name: str, value: Any, datatype: str, nullable: bool) -> Any:
    """One value in a Triton data type."""
    with suppress(OverflowError, UnicodeEncodeError):  # of no number and no text: told below
        if _is_null(value):
            if nullable:
                return NO_VALUE[datatype].encode() if datatype == "BYTES" else NO_VALUE[datatype]
        elif datatype == "BYTES":
            if isinstance(value, bytes):
                return bytes(value)
            if isinstance(value, (str, int, np.integer)) and not isinstance(value, bool):
                return str(value).encode()
        elif isinstance(value, (int, float, np.integer, np.floating, np.bool_)):
            if datatype != "INT64":
                return float(value)
            if value == int(value) and -(2**63) <= int(value) < 2**63:
                return int(value)
    raise ServingError(
        f"input '{name}' holds {value!r}; the model takes {WANTED[datatype]} ({datatype})"
        + (" or null" if nullable else "")
    )


def _is_null(value: Any) -> bool:
    """None, NaN, a masked value, and pandas.NA, for which pandas need not be there."""
    if value is None or value is np.ma.masked or type(value).__name__ == "NAType":
        return True
    return isinstance(value, (float, np.floating)) and value != value


def _unanswered(error: ServingError) -> bool:
    """Whether nobody answered; another request would only wait again."""
    cause = error.__cause__
    if isinstance(cause, InferenceServerException):
        return cause.status() in ("StatusCode.DEADLINE_EXCEEDED", "StatusCode.UNAVAILABLE")
    return isinstance(cause, OSError)


class _Http:
    """tritonclient over HTTP: the time limit belongs to the connection."""

    def __init__(self, address: str, timeout: float) -> None:
        from tritonclient import http as triton

        self.triton = triton
        self.client = triton.InferenceServerClient(
            address, connection_timeout=timeout, network_timeout=timeout
        )

    def ready(self) -> bool:
        return self.client.is_model_ready(MODEL_NAME)

    def metadata(self) -> dict[str, Any]:
        return self.client.get_model_metadata(MODEL_NAME)

    def infer(self, inputs: list, parameters: dict) -> tuple[Any, int]:
        answer = self.client.infer(MODEL_NAME, inputs, parameters=parameters)
        return answer, int(answer.get_response()["model_version"])

    def close(self) -> None:
        self.client.close()


class _Grpc:
    """tritonclient over gRPC: the time limit belongs to the call.

    tritonclient 2.35 passes a limit on with `infer` alone; the other calls use gRPC's own stub.
    """

    def __init__(self, address: str, timeout: float) -> None:
        import grpc
        from tritonclient import grpc as triton

        self.triton, self.grpc, self.timeout = triton, grpc, timeout
        # gRPC would take the web proxy that the environment may name, which speaks no gRPC.
        options = [("grpc.enable_http_proxy", 0)]
        self.client = triton.InferenceServerClient(address, channel_args=options)
        self.channel = grpc.insecure_channel(address, options)
        self.stub = triton.service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def ready(self) -> bool:
        request = self.triton.service_pb2.ModelReadyRequest(name=MODEL_NAME)
        return self._call(self.stub.ModelReady, request).ready

    def metadata(self) -> dict[str, Any]:
        request = self.triton.service_pb2.ModelMetadataRequest(name=MODEL_NAME)
        return MessageToDict(self._call(self.stub.ModelMetadata, request))

    def infer(self, inputs: list, parameters: dict) -> tuple[Any, int]:
        answer = self.client.infer(
            MODEL_NAME, inputs, parameters=parameters, client_timeout=self.timeout
        )
        return answer, int(answer.get_response().model_version)

    def close(self) -> None:
        self.client.close()
        self.channel.close()

    def _call(self, method: Callable, request: Any) -> Any:
        try:
            return method(request, timeout=self.timeout)
        except self.grpc.RpcError as error:
            raise InferenceServerException(error.details()) from error
