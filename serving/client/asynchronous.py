"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable, Mapping, Sequence
from functools import cached_property
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


class AsyncRetrievalClient:
    """Connections to the model `retrieval` for asyncio.

    Any number of tasks of one event loop may share it.

    Parameters
    ----------
    address, protocol, timeout, retries
        As for `RetrievalClient`.

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

    async def ready(self) -> bool:
        """Return whether the model answers now; the connection is not retried."""
        try:
            return await asyncio.wait_for(self._service.ready(), self.timeout)
        except self._service.errors:
            return False

    async def version(self) -> int:
        """Return the version of the model that answers now."""
        return await self._run(self._conversation.version())

    async def user_id_type(self) -> str:
        """Return the Triton data type of user ids: INT64, UINT64 or BYTES (text)."""
        return await self._run(self._conversation.user_id_type())

    async def recommend(
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
        """Return the k best items for each user (see `RetrievalClient.recommend`)."""
        filters = Filters(where, allow_item_ids, exclude_item_ids, max_per, diversity, diversity_by)
        asked = self._conversation.recommend(
            user_ids, k, filter_seen, features, filters, Ranking(rank, candidates)
        )
        return await self._run(asked)

    async def similar(
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
        """Return the k items most similar to each row's items (see `RetrievalClient.similar`)."""
        filters = Filters(where, allow_item_ids, exclude_item_ids, max_per, diversity, diversity_by)
        return await self._run(self._conversation.similar(items, k, filters))

    async def record(
        self,
        user_ids: Iterable,
        item_ids: Iterable,
        key: str,
        values: Mapping[str, Iterable] | None = None,
    ) -> np.ndarray:
        """Record that users have interacted with items (see `RetrievalClient.record`)."""
        return await self._run(self._conversation.record(user_ids, item_ids, key, values))

    async def close(self) -> None:
        """Close the connections."""
        await self._service.close()

    async def __aenter__(self) -> AsyncRetrievalClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(self, conversation: Generator[Call | Wait, Any, Result]) -> Result:
        """Do what the conversation asks for until it returns."""
        try:
            action = next(conversation)
            while True:
                try:
                    result = await self._do(action)
                except ServingError as error:
                    action = conversation.throw(error)
                else:
                    action = conversation.send(result)
        except StopIteration as end:
            return end.value

    async def _do(self, action: Call | Wait) -> Any:
        if isinstance(action, Wait):
            return await asyncio.sleep(action.seconds)
        try:
            call = getattr(self._service, action.method)(*action.arguments)
            return await asyncio.wait_for(call, self.timeout)
        except self._service.errors as error:
            raise serving_error(error, self.address, self.timeout) from error


class _Http:
    """tritonclient over HTTP with aiohttp."""

    def __init__(self, address: str, timeout: float) -> None:
        from aiohttp import ClientError
        from tritonclient.http import aio

        self.library, self.address, self.timeout = aio, address, timeout
        self.errors = (InferenceServerException, OSError, ClientError, asyncio.TimeoutError)

    @cached_property
    def client(self) -> Any:
        # Made at the first call, because it belongs to the event loop that runs then.
        return self.library.InferenceServerClient(self.address, conn_timeout=self.timeout)

    async def ready(self) -> bool:
        return await self.client.is_model_ready(MODEL_NAME)

    async def metadata(self, model: str) -> dict[str, Any]:
        return await self.client.get_model_metadata(model)

    async def infer(
        self,
        model: str,
        tensors: Sequence[Tensor],
        outputs: Sequence[str],
        parameters: dict[str, Any],
        headers: dict[str, str] | None = None,
    ) -> Answer:
        inputs = triton_inputs(self.library, tensors)
        result = await self.client.infer(model, inputs, parameters=parameters, headers=headers)
        return read_answer(result, outputs, result.get_response()["model_version"])

    async def close(self) -> None:
        if "client" in self.__dict__:
            await self.client.close()


class _Grpc:
    """tritonclient over gRPC with grpc.aio."""

    errors = (InferenceServerException, asyncio.TimeoutError)

    def __init__(self, address: str, timeout: float) -> None:
        from tritonclient.grpc import aio

        self.library, self.address, self.timeout = aio, address, timeout

    @cached_property
    def client(self) -> Any:
        # Made at the first call, because it belongs to the event loop that runs then.
        return self.library.InferenceServerClient(self.address, channel_args=CHANNEL_OPTIONS)

    async def ready(self) -> bool:
        return await self.client.is_model_ready(MODEL_NAME)

    async def metadata(self, model: str) -> dict[str, Any]:
        # Without as_json, which fails in tritonclient 2.35: it uses a module that it never imports.
        return metadata_of(await self.client.get_model_metadata(model))

    async def infer(
        self,
        model: str,
        tensors: Sequence[Tensor],
        outputs: Sequence[str],
        parameters: dict[str, Any],
        headers: dict[str, str] | None = None,
    ) -> Answer:
        inputs = triton_inputs(self.library, tensors)
        result = await self.client.infer(model, inputs, parameters=parameters, headers=headers)
        return read_answer(result, outputs, result.get_response().model_version)

    async def close(self) -> None:
        if "client" in self.__dict__:
            await self.client.close()
