"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, TypeVar

import numpy as np
from tritonclient.utils import InferenceServerException

from twotower.serving.client.errors import serving_error
from twotower.serving.client.requests import (
    CHANNEL_OPTIONS,
    Answer,
    Call,
    Conversation,
    Recommendations,
    Tensor,
    Wait,
    check_protocol,
    metadata_of,
    read_answer,
    triton_inputs,
)
from twotower.serving.client.values import Filters, Ranking
from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton.control import MODEL_NAME

Result = TypeVar("Result")


class RetrievalClient:
    """A connection to the model `retrieval`. Use it from one thread at a time.

    Parameters
    ----------
    address : str
        "host:port" of the server's service of that protocol.
    protocol : {"http", "grpc"}
    timeout : float
        Time limit in seconds for each call to the server.
    retries : int
        How many times a call is repeated after the connection failed, with pauses of 0.2 s, 0.4 s,
        0.8 s and so on. Errors that the server answers and time-outs are final.

    Raises
    ------
    ServingError
        If the protocol is unknown.
    """

    def __init__(
        self,
        address: str,
        protocol: Literal["http", "grpc"] = "http",
        timeout: float = 5.0,
        retries: int = 2,
    ) -> None:
        check_protocol(protocol)
        self.address, self.protocol, self.timeout = address, protocol, timeout
        self._conversation = Conversation(retries)
        self._service: _Http | _Grpc
        if protocol == "http":
            self._service = _Http(address, timeout)
        else:
            self._service = _Grpc(address, timeout)

    def ready(self) -> bool:
        """Return whether the model answers now; the connection is not retried."""
        try:
            return self._service.ready()
        except self._service.errors:
            return False

    def version(self) -> int:
        """Return the version of the model that answers now."""
        return self._run(self._conversation.version())

    def user_id_type(self) -> str:
        """Return the Triton data type of user ids: INT64, UINT64 or BYTES (text)."""
        return self._run(self._conversation.user_id_type())

    def recommend(
        self,
        user_ids: Iterable,
        k: int = 10,
        filter_seen: bool = True,
        features: Mapping[str, Iterable] | None = None,
        *,
        where: Mapping[str, Any] | str | None = None,
        allow_item_ids: Iterable | None = None,
        exclude_item_ids: Iterable | None = None,
        max_per: Mapping[str, int] | str | None = None,
        diversity: float | None = None,
        diversity_by: str | None = None,
        rank: bool = False,
        candidates: int | None = None,
    ) -> Recommendations:
        """Return the k best items for each user.

        Parameters
        ----------
        user_ids : iterable of int or str
            Raw ids: text or integers, as the model has them. An unknown user is represented by the
            out-of-vocabulary embedding. Without users, the answer has no rows.
        k : int
            Number of items per user.
        filter_seen : bool
            Whether to leave out items that the user has seen: those that the server knows of, and
            those of a history in `features`.
        features : mapping of str to iterable, optional
            Raw values, one per user, which replace those that the server has. None, NaN, pandas.NA
            and masked values are null. A list feature has one list per user, with up to 4,096
            values; null is the empty list.
        where : mapping or str, optional
            A predicate over the columns of `serving.filters`, such as
            ``{"genres": "Drama", "year": {"$gte": 1990}}``, or its JSON; see docs/serving.md. Only
            items that satisfy it are in the answer.
        allow_item_ids : iterable of iterable, optional
            The only items that may be in the answer, one list per user; an empty list allows none.
        exclude_item_ids : iterable of iterable, optional
            Items that may not be in the answer, one list per user.
        max_per : mapping of str to int, or str, optional
            How many items of an answer may share a value of a column of `serving.filters`, such as
            ``{"genres": 2}``.
        diversity : float, optional
            From 0, the order of the scores, to 1: how much an item counts for being unlike those
            before it (maximal marginal relevance). Scores then need not descend.
        diversity_by : str, optional
            A column of `serving.filters`, such as "genres": items are alike by the values that they
            share (Jaccard index), and not by the cosine of their vectors.
        rank : bool
            Whether the ranking model orders the answer, and the scores are its probabilities. The
            model `recommend` is asked then, which a version with a ranking model has.
        candidates : int, optional
            How many items per user the ranking model orders, at least k. By default and at most
            `ranking.candidates`.

        Returns
        -------
        Recommendations

        Raises
        ------
        ServingError
            With the server's message, or the reason why there is no answer.
        """
        filters = Filters(where, allow_item_ids, exclude_item_ids, max_per, diversity, diversity_by)
        asked = self._conversation.recommend(
            user_ids, k, filter_seen, features, filters, Ranking(rank, candidates)
        )
        return self._run(asked)

    def similar(
        self,
        items: Iterable[Iterable],
        k: int = 10,
        *,
        where: Mapping[str, Any] | str | None = None,
        allow_item_ids: Iterable | None = None,
        exclude_item_ids: Iterable | None = None,
        max_per: Mapping[str, int] | str | None = None,
        diversity: float | None = None,
        diversity_by: str | None = None,
    ) -> Recommendations:
        """Return the k items that are most similar to each row's items.

        The score is the cosine of an item's vector and the sum of the vectors of the row's items,
        each of length 1. The row's items are not in the answer.

        Parameters
        ----------
        items : iterable of iterable of int or str
            A list of item ids per row: one item, or several as a basket. Unknown ones are ignored;
            a row without a known item has no answer (scores of -inf).
        k : int
            Number of items per row.
        where, allow_item_ids, exclude_item_ids, max_per, diversity, diversity_by : optional
            Which items may be in the answer, see `recommend`.

        Returns
        -------
        Recommendations

        Raises
        ------
        ServingError
            With the server's message, or the reason why there is no answer.
        """
        filters = Filters(where, allow_item_ids, exclude_item_ids, max_per, diversity, diversity_by)
        return self._run(self._conversation.similar(items, k, filters))

    def record(
        self,
        user_ids: Iterable,
        item_ids: Iterable,
        key: str,
        values: Mapping[str, Iterable] | None = None,
    ) -> np.ndarray:
        """Record that users have interacted with items; the next answers take it into account.

        The server must have a store of events (`serving.events.store`). If the connection fails,
        this is not repeated, because the events may have been recorded.

        Parameters
        ----------
        user_ids, item_ids : iterable of int or str, length n
            Raw ids.
        key : str
            The server's key for events: `events_key` of server.json in the run folder, or what the
            environment variable TWOTOWER_EVENTS_KEY was when it started.
        values : mapping of str to iterable, optional
            The time, in seconds since 1970, and the columns of the interactions, such as
            ``{"timestamp": [1700000000], "rating": [5.0]}``. By default the time is now.

        Returns
        -------
        ndarray of int64, shape (n,)
            The time with which each event was recorded.

        Raises
        ------
        ServingError
            If nothing was recorded, with the server's message; or if there is no answer.
        """
        return self._run(self._conversation.record(user_ids, item_ids, key, values))

    def close(self) -> None:
        """Close the connection."""
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

    def _run(self, conversation: Generator[Call | Wait, Any, Result]) -> Result:
        """Do what the conversation asks for until it returns."""
        try:
            action = next(conversation)
            while True:
                try:
                    result = self._do(action)
                except ServingError as error:
                    action = conversation.throw(error)
                else:
                    action = conversation.send(result)
        except StopIteration as end:
            return end.value

    def _do(self, action: Call | Wait) -> Any:
        if isinstance(action, Wait):
            time.sleep(action.seconds)
            return self._service.reconnect()
        try:
            return getattr(self._service, action.method)(*action.arguments)
        except self._service.errors as error:
            raise serving_error(error, self.address, self.timeout) from error


class _Http:
    """tritonclient over HTTP. The time limit is one of the connection."""

    def __init__(self, address: str, timeout: float) -> None:
        from geventhttpclient.response import HTTPParseError
        from tritonclient import http

        self.library = http
        # HTTPParseError: the connection was closed within an answer, among others.
        self.errors = (InferenceServerException, OSError, HTTPParseError)
        self.client = http.InferenceServerClient(
            address, connection_timeout=timeout, network_timeout=timeout
        )

    def ready(self) -> bool:
        return self.client.is_model_ready(MODEL_NAME)

    def metadata(self, model: str) -> dict[str, Any]:
        return self.client.get_model_metadata(model)

    def infer(
        self,
        model: str,
        tensors: Sequence[Tensor],
        outputs: Sequence[str],
        parameters: dict[str, Any],
        headers: dict[str, str] | None = None,
    ) -> Answer:
        inputs = triton_inputs(self.library, tensors)
        result = self.client.infer(model, inputs, parameters=parameters, headers=headers)
        return read_answer(result, outputs, result.get_response()["model_version"])

    def reconnect(self) -> None:
        """Do nothing: tritonclient makes a new connection for the next call."""

    def close(self) -> None:
        self.client.close()


class _Grpc:
    """tritonclient over gRPC. The time limit is one of each call.

    Only `infer` of tritonclient 2.35 has a time limit, so the other calls use gRPC's own stub.
    """

    errors = (InferenceServerException,)

    def __init__(self, address: str, timeout: float) -> None:
        import grpc
        from tritonclient import grpc as library

        self.library, self.grpc, self.address, self.timeout = library, grpc, address, timeout
        self._connect()

    def ready(self) -> bool:
        request = self.library.service_pb2.ModelReadyRequest(name=MODEL_NAME)
        return self._call(self.stub.ModelReady, request).ready

    def metadata(self, model: str) -> dict[str, Any]:
        request = self.library.service_pb2.ModelMetadataRequest(name=model)
        return metadata_of(self._call(self.stub.ModelMetadata, request))

    def infer(
        self,
        model: str,
        tensors: Sequence[Tensor],
        outputs: Sequence[str],
        parameters: dict[str, Any],
        headers: dict[str, str] | None = None,
    ) -> Answer:
        inputs = triton_inputs(self.library, tensors)
        result = self.client.infer(
            model,
            inputs,
            parameters=parameters,
            headers=headers,
            client_timeout=self.timeout,
        )
        return read_answer(result, outputs, result.get_response().model_version)

    def reconnect(self) -> None:
        """Replace the channels: those of a failed connection only reconnect while a call waits."""
        self.close()
        self._connect()

    def close(self) -> None:
        self.client.close()
        self.channel.close()

    def _connect(self) -> None:
        self.client = self.library.InferenceServerClient(self.address, channel_args=CHANNEL_OPTIONS)
        self.channel = self.grpc.insecure_channel(self.address, CHANNEL_OPTIONS)
        self.stub = self.library.service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def _call(self, method: Callable, request: Any) -> Any:
        try:
            return method(request, timeout=self.timeout)
        except self.grpc.RpcError as error:
            raise InferenceServerException(error.details(), str(error.code())) from error
