"""What the blocking and the asyncio client share: requests, answers, and when to ask again.

`Conversation` decides what to send and what an answer means, without any input or output. Its
generators yield each `Call` to the server and each `Wait`; a client performs them, and sends back
the result or throws the error.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from twotower.serving.client.errors import ConnectionFailedError, RefusedError
from twotower.serving.client.values import (
    NOT_RANKED,
    Filters,
    Ranking,
    Values,
    column,
    id_column,
    padded_lists,
    read_features,
    read_parameters,
    read_texts,
    read_values,
    unknown_input,
)
from twotower.serving.runtime.contract import ARM, RETRIEVAL_SCORE
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.filters.parameters import KEY_HEADER, K
from twotower.serving.runtime.tensors import NUMPY_DTYPES
from twotower.serving.triton.control import (
    EVENTS,
    MODEL_NAME,
    RECOMMEND,
    SIMILAR_ITEMS,
    NoAnswerError,
)

FIRST_PAUSE_SECONDS = 0.2
"""Pause before the first retry; each further pause is twice as long."""
CHANNEL_OPTIONS = [
    ("grpc.enable_http_proxy", 0),  # a web proxy in the environment does not speak gRPC
    ("grpc.initial_reconnect_backoff_ms", 100),  # shorter than the first pause
]
"""Options of gRPC."""


@dataclass(frozen=True)
class Recommendations:
    """The answer: row i belongs to user i, or to the i-th items asked for, best item first.

    Attributes
    ----------
    item_ids : ndarray of int64, shape (n, k)
        Raw item ids, of uint64 or of str (object) where the model's ids are such. Where no item is
        left for the user, the id means nothing; the score says so.
    scores : ndarray of float32, shape (n, k)
        Descending; -inf where no item is left for the user.
    version : int
        The version of the model that answered.
    retrieval_scores : ndarray of float32, shape (n, k), optional
        If a ranking model has ordered the items, whose scores are probabilities: the scores of
        retrieval.
    arms : ndarray of int64, shape (n,), optional
        The version that answered each user, if the server compares two (`serving.experiment`), and
        in answers that a ranking model has ordered.
    """

    item_ids: np.ndarray
    scores: np.ndarray
    version: int
    retrieval_scores: np.ndarray | None = None
    arms: np.ndarray | None = None


class Tensor(NamedTuple):
    """An input of a request, in a Triton data type."""

    name: str
    array: np.ndarray
    datatype: str


class Answer(NamedTuple):
    """The outputs of a request in the order asked for, None for one that is not in the answer, and
    the version that answered."""

    outputs: list[np.ndarray | None]
    version: int


class Call(NamedTuple):
    """A method of a service and its arguments, for the client to call."""

    method: Literal["metadata", "infer"]
    arguments: tuple = ()


class Wait(NamedTuple):
    """A pause that the client must make."""

    seconds: float


class Query(NamedTuple):
    """What a caller asks, before it is converted to the types of the model.

    `keys` are the values of the model's first input: users, or lists of items.
    """

    keys: Values
    features: dict[str, Values]
    parameters: dict[str, Any]


def metadata_of(answer: Any) -> dict[str, Any]:
    """Return a gRPC ModelMetadataResponse as the dict that the HTTP service answers."""
    tensors = {
        name: [
            {"name": each.name, "datatype": each.datatype, "shape": each.shape}
            for each in getattr(answer, name)
        ]
        for name in ("inputs", "outputs")
    }
    return {"versions": answer.versions, **tensors}


class ModelInterface:
    """Inputs, outputs and loaded versions of the model.

    Parameters
    ----------
    metadata : dict of str to Any
        Triton's metadata of the model: what it is asked for, user ids or lists of items, is the
        first input, the item ids are the first output.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.inputs = {each["name"]: each for each in metadata["inputs"]}
        self.outputs = [each["name"] for each in metadata["outputs"]]
        self.item_dtype = NUMPY_DTYPES[metadata["outputs"][0]["datatype"]]
        self.versions = [int(version) for version in metadata["versions"]]
        self.key: str = metadata["inputs"][0]["name"]

    @property
    def version(self) -> int:
        """The newest loaded version, which answers requests."""
        return max(self.versions)

    def query(
        self, keys: Iterable, others: Mapping[str, Iterable], parameters: dict[str, Any]
    ) -> Query:
        """Read the values of a request, each iterator once, and check their numbers."""
        asked = read_values(self.key, keys)
        given = {name: read_values(name, values) for name, values in others.items()}
        if self.key in given:
            raise ServingError(
                f"input '{self.key}' is among the features; give user ids as `user_ids` only"
            )
        for name, values in given.items():
            if len(values) != len(asked):
                rows = "rows" if self._is_list(self.key) else "users"
                raise ServingError(
                    f"input '{name}' has {len(values)} values, there are {len(asked)} {rows}"
                )
        return Query(asked, given, parameters)

    def tensors(self, query: Query) -> list[Tensor]:
        """Convert a query to the inputs of a request."""
        inputs = [(self.key, query.keys), *query.features.items()]
        return [self._tensor(name, values) for name, values in inputs]

    def check_without_rows(self, query: Query) -> None:
        """Check a query without rows, which is answered without asking the model."""
        for name in query.features:
            if name not in self.inputs:
                raise ServingError(
                    f"input '{name}' is unknown; this model takes {', '.join(self.inputs)}"
                )
        if query.parameters[K] < 1:
            raise ServingError(f"parameter '{K}' is {query.parameters[K]}; expected 1 or more")

    def changes(self, later: ModelInterface) -> str:
        """Describe how the inputs differ from those of a later interface; empty if they do not."""
        old, new = (
            {name: each["datatype"] for name, each in interface.inputs.items()}
            for interface in (self, later)
        )
        return ", ".join(
            f"{name} was {old.get(name, 'unknown')}, is {new.get(name, 'unknown')} in version "
            f"{later.version}"
            for name in {**old, **new}
            if old.get(name) != new.get(name)
        )

    def _tensor(self, name: str, values: Values) -> Tensor:
        if name not in self.inputs:
            return Tensor(name, unknown_input(values), "BYTES")
        datatype = self.inputs[name]["datatype"]
        if self._is_list(name):
            array = padded_lists(name, values, datatype)
        elif name == self.key:
            array = id_column(name, values, datatype)
        else:
            array = column(name, values, datatype, nullable=True)
        return Tensor(name, array, datatype)

    def _is_list(self, name: str) -> bool:
        return int(self.inputs[name]["shape"][-1]) == -1


class Conversation:
    """Decides what a client sends, and when it sends it again.

    A model's interface is read before the first request to it and kept. It is read again when the
    model refuses a request, because another version may have other inputs, and when another version
    answers.

    Parameters
    ----------
    retries : int
        Largest number of times that a call is repeated after the connection failed.
    """

    def __init__(self, retries: int) -> None:
        self.retries = retries
        self._models: dict[str, ModelInterface] = {}

    def version(self, name: str = MODEL_NAME) -> Generator[Call | Wait, Any, int]:
        """Ask which version answers."""
        model = yield from self._read_model(name)
        return model.version

    def user_id_type(self) -> Generator[Call | Wait, Any, str]:
        """Ask for the Triton data type of user ids."""
        model = yield from self._read_model(MODEL_NAME)
        return model.inputs[model.key]["datatype"]

    def recommend(
        self,
        user_ids: Iterable,
        k: int,
        filter_seen: bool,
        features: Mapping[str, Iterable] | None,
        filters: Filters,
        ranking: Ranking = NOT_RANKED,
    ) -> Generator[Call | Wait, Any, Recommendations]:
        """Ask for recommendations (see `RetrievalClient.recommend`)."""
        parameters = {**read_parameters(k, filter_seen), **filters.parameters}
        parameters |= ranking.parameters
        named = {**read_features(features), **filters.inputs}
        name = RECOMMEND if ranking.rank else MODEL_NAME
        return (yield from self._find(name, user_ids, named, parameters))

    def similar(
        self, items: Iterable, k: int, filters: Filters
    ) -> Generator[Call | Wait, Any, Recommendations]:
        """Ask for similar items (see `RetrievalClient.similar`)."""
        parameters = {**read_parameters(k), **filters.parameters}
        return (yield from self._find(SIMILAR_ITEMS, items, filters.inputs, parameters))

    def record(
        self,
        user_ids: Iterable,
        item_ids: Iterable,
        key: str,
        values: Mapping[str, Iterable] | None,
    ) -> Generator[Call | Wait, Any, np.ndarray]:
        """Record events (see `RetrievalClient.record`)."""
        model = self._models.get(EVENTS) or (yield from self._read_model(EVENTS))
        names = list(model.inputs)  # the second one is that of the items
        query = model.query(user_ids, {names[1]: item_ids, **read_features(values)}, {})
        if not len(query.keys):
            return np.zeros(0, np.int64)
        call = Call("infer", (EVENTS, model.tensors(query), model.outputs, {}, {KEY_HEADER: key}))
        try:
            (times,), _ = yield call
        except ServingError:
            self._models.pop(EVENTS, None)  # its types may be outdated
            raise
        return times[:, 0]

    def _find(
        self,
        name: str,
        keys: Iterable,
        others: Mapping[str, Iterable],
        parameters: dict[str, Any],
    ) -> Generator[Call | Wait, Any, Recommendations]:
        """Ask a model for items."""
        model = self._models.get(name) or (yield from self._read_model(name))
        query = model.query(keys, others, parameters)
        try:
            answer = yield from self._answer(name, model, query)
        except NoAnswerError:
            raise
        except ServingError as error:
            self._models.pop(name, None)  # its types may be outdated
            if not isinstance(error, RefusedError):
                raise
            model, changes = yield from self._changes_since(name, model)
            if not changes:
                raise
            try:
                answer = yield from self._answer(name, model, query)
            except ServingError as again:
                raise ServingError(
                    f"{again}; the model's inputs have changed: {changes}"
                ) from again
        if answer.version not in model.versions:
            self._models.pop(name, None)
        return answer

    def _answer(
        self, name: str, model: ModelInterface, query: Query
    ) -> Generator[Call | Wait, Any, Recommendations]:
        if not len(query.keys):
            model.check_without_rows(query)
            shape = (0, query.parameters[K])
            version = yield from self.version(name)
            item_ids = np.empty(shape, model.item_dtype)
            return Recommendations(item_ids, np.empty(shape, np.float32), version)
        names = [*model.outputs[:2], RETRIEVAL_SCORE, ARM]
        call = Call("infer", (name, model.tensors(query), names, query.parameters))
        (item_ids, scores, retrieved, arms), version = yield from self._ask(call)
        arms = None if arms is None else arms[:, 0]
        return Recommendations(item_ids, scores, version, retrieved, arms)

    def _changes_since(
        self, name: str, model: ModelInterface
    ) -> Generator[Call | Wait, Any, tuple[ModelInterface, str]]:
        """Return the current interface, and how its inputs differ from those of `model`."""
        try:
            current = yield from self._read_model(name)
        except ServingError:
            return model, ""  # the error of the request says more
        return current, model.changes(current)

    def _read_model(self, name: str) -> Generator[Call | Wait, Any, ModelInterface]:
        model = ModelInterface((yield from self._ask(Call("metadata", (name,)))))
        self._models[name] = model
        return model

    def _ask(self, call: Call) -> Generator[Call | Wait, Any, Any]:
        """Make a call, and repeat it while the connection fails. Any answer is final."""
        for attempt in range(self.retries):
            try:
                return (yield call)
            except ConnectionFailedError:
                yield Wait(FIRST_PAUSE_SECONDS * 2**attempt)
        return (yield call)


def check_protocol(protocol: str) -> None:
    """Raise ServingError if a client does not know the protocol."""
    if protocol not in ("http", "grpc"):
        raise ServingError(f"protocol is {protocol!r}; expected 'http' or 'grpc'")


def triton_inputs(library: Any, tensors: Sequence[Tensor]) -> list[Any]:
    """Convert tensors to the inputs of `library`, tritonclient.http or tritonclient.grpc."""
    inputs = []
    for name, array, datatype in tensors:
        each = library.InferInput(name, list(array.shape), datatype)
        each.set_data_from_numpy(array)
        inputs.append(each)
    return inputs


def read_answer(result: Any, outputs: Sequence[str], version: Any) -> Answer:
    """Read the outputs from tritonclient's result."""
    arrays = [result.as_numpy(name) for name in outputs]
    return Answer([None if each is None else read_texts(each) for each in arrays], int(version))
