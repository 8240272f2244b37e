"""Settings of the exported model and of the server that runs it."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConstrainedInt, Extra, Field, root_validator, validator

from twotower.serving.runtime.live.opening import PASSWORD, REDIS, STORE, STREAM

MAX_VERSION = 2**31 - 1
MAX_NUMBER = 1_000_000
"""Upper limit of counts: more than anyone needs, and within the limits of Triton and FAISS."""


SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([MG]B)", re.IGNORECASE)
UNITS = {"MB": 10**6, "GB": 10**9}
"""Bytes of the units of `SIZE`."""


class BatchSize(ConstrainedInt):
    """The size of a batch: a number of users."""

    ge, le = 1, MAX_NUMBER


class EventsConfig(BaseModel, extra=Extra.forbid):
    """Where the server keeps what users do while it runs."""

    store: Literal["none", "sqlite", "redis"] = Field(
        "none",
        description="none: the server takes no events; sqlite: they are in a file beside the "
        "versions, for the processes of one machine; redis: several servers share them",
    )
    redis: str = Field(
        "redis://127.0.0.1:6379/0",
        description="address of Redis, redis:// or rediss:// (TLS). A password belongs in the "
        f"environment variable {PASSWORD}",
    )
    stream: str = Field(
        "twotower:events",
        min_length=1,
        description="key of the stream in Redis; servers with the same one share their events",
    )

    @validator("redis")
    def _is_an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("redis", "rediss") or not parts.hostname:
            raise ValueError(f"{value!r} is no address of Redis; expected redis://<host>:<port>/0")
        if parts.password:
            raise ValueError(
                f"the address has a password; put it into the environment variable {PASSWORD}"
            )
        return value

    @property
    def settings(self) -> dict[str, str] | None:
        """What `serving.runtime.live.opening.open_store` takes; None without a store."""
        if self.store == "none":
            return None
        return {STORE: self.store, REDIS: self.redis, STREAM: self.stream}


class ExperimentConfig(BaseModel, extra=Extra.forbid):
    """Two versions that answer side by side, each its users."""

    control: int = Field(
        ..., ge=1, le=MAX_VERSION, description="version that answers most users: the published one"
    )
    treatment: int = Field(
        ..., ge=1, le=MAX_VERSION, description="version that answers a share of the users"
    )
    share: float = Field(
        0.5, gt=0, lt=1, description="share of the users whom the treatment answers"
    )
    salt: str = Field(
        "",
        max_length=100,
        description="text by which users are divided; another one divides them anew, so that an "
        "experiment does not have the groups of the one before",
    )

    @root_validator(skip_on_failure=True)
    def _versions_differ(cls, values: dict) -> dict:
        if values["control"] == values["treatment"]:
            raise ValueError(f"control and treatment are both version {values['control']}")
        return values


class IndexConfig(BaseModel, extra=Extra.forbid):
    """Which index finds the items of a query vector."""

    kind: Literal["auto", "flat", "hnsw", "ivf_flat", "ivf_sq8", "ivf_pq"] = Field(
        "flat",
        description="flat: exact. The others are approximate: hnsw is a graph over all vectors; "
        "ivf_flat compares only the vectors in the lists nearest to the query; ivf_sq8 does so "
        "with a byte per dimension, ivf_pq with half a byte. auto chooses: flat for up to 100,000 "
        "items of 64 dimensions, otherwise the fastest that has the recall and fits in the memory",
    )
    recall: float = Field(
        0.95,
        gt=0,
        le=1,
        description="smallest recall at 100 items that an approximate index must have: the "
        "fraction of the exact answers that it finds, measured at the export with query vectors of "
        "users",
    )
    memory: str | None = Field(
        None,
        description="largest memory of the index, such as 300MB or 1.5GB; by default there is no "
        "limit",
    )

    @validator("memory")
    def _is_a_size(cls, value: str | None) -> str | None:
        if value is not None and not SIZE.fullmatch(value.strip()):
            raise ValueError(f"{value!r} is no size; expected a number and MB or GB, such as 300MB")
        return value

    @property
    def memory_bytes(self) -> int | None:
        """The largest memory in bytes; None without a limit."""
        found = SIZE.fullmatch((self.memory or "").strip())
        return found and int(float(found[1]) * UNITS[found[2].upper()])


class ServingConfig(BaseModel):
    """How the query tower, the index and the user table become a Triton model."""

    runtime: Literal["compiled", "merlin"] = Field(
        "compiled",
        description="compiled: runs on NumPy, ONNX Runtime and FAISS only; "
        "merlin: runs merlin-systems' own executor with TensorFlow and NVTabular",
    )
    seen: Literal["train_valid", "positives", "interactions"] = Field(
        "train_valid",
        description="the interactions whose items count as seen by the user: those of the training "
        "and validation sets, all positive ones, or all of them",
    )
    filters: list[str] = Field(
        [],
        description="item columns that the request parameter where may filter by: numbers, text, "
        "booleans and lists of them",
    )
    default_k: int = Field(
        10, ge=1, le=MAX_NUMBER, description="items per user when a request does not set k"
    )
    max_k: int = Field(1000, ge=1, le=MAX_NUMBER, description="largest k a request may set")
    max_batch_size: int = Field(
        1024, ge=1, le=MAX_NUMBER, description="largest number of users in a request"
    )
    preferred_batch_sizes: list[BatchSize] = Field(
        [],
        description="batch sizes, in users, that Triton tries to reach by joining requests; if "
        "empty, it joins the requests that are waiting",
    )
    queue_delay_us: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="longest time in microseconds that a request waits for others to join it; 0 "
        "never delays a request",
    )
    threads: int = Field(
        2,
        ge=1,
        le=1024,
        description="threads that share the work of a large batch; for merlin, TensorFlow's and "
        "FAISS's threads",
    )
    keep_versions: int = Field(
        3,
        ge=2,
        le=MAX_NUMBER,
        description="number of newest versions that are kept when a version is published",
    )
    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="IPv4 address or host name that the server listens on; clients are not "
        "authenticated, so only a loopback address is safe",
    )
    http_port: int = Field(0, ge=0, le=65535, description="HTTP port; 0 chooses a free one")
    grpc_port: int = Field(0, ge=0, le=65535, description="gRPC port; 0 chooses a free one")
    metrics_port: int = Field(
        0, ge=0, le=65535, description="port for Prometheus metrics; 0 chooses a free one"
    )
    startup_seconds: float = Field(
        180.0,
        gt=0,
        le=1e6,
        description="time limit in seconds for the server to start and for a version to load",
    )

    index: IndexConfig = Field(IndexConfig(), description="Which index finds the items.")

    events: EventsConfig = Field(EventsConfig(), description="What users do while the server runs.")

    experiment: ExperimentConfig | None = Field(
        None,
        description="A comparison of two versions, which the server makes from its start; by "
        "default there is none.",
    )

    class Config:
        extra = "forbid"

    @root_validator(skip_on_failure=True)
    def _experiment_has_events(cls, values: dict) -> dict:
        if values["experiment"] and values["events"].store == "none":
            raise ValueError(
                "experiment: its result is counted from events, but there is no store of them; set "
                "events.store to sqlite or redis"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _events_are_followed(cls, values: dict) -> dict:
        if values["runtime"] == "merlin" and values["events"].store != "none":
            raise ValueError(
                f"events.store is {values['events'].store}, but runtime merlin answers from what "
                "its version holds; set runtime to compiled, or events.store to none"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _merlin_searches_exactly(cls, values: dict) -> dict:
        if values["runtime"] == "merlin" and values["index"].kind not in ("auto", "flat"):
            raise ValueError(
                f"index.kind is {values['index'].kind}, but runtime merlin sorts all items; set "
                "index.kind to flat, or runtime to compiled"
            )
        return values

    @validator("filters", each_item=True)
    def _is_no_operator(cls, name: str) -> str:
        if name.startswith("$") or not name:
            raise ValueError(f"{name!r} cannot be a column to filter by: operators begin with $")
        return name

    @validator("filters")
    def _names_differ(cls, names: list[str]) -> list[str]:
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{repeated[0]} occurs twice; name each column once")
        return names

    @root_validator(skip_on_failure=True)
    def _default_k_within_limit(cls, values: dict) -> dict:
        if values["default_k"] > values["max_k"]:
            raise ValueError(
                f"default_k = {values['default_k']} is above max_k = {values['max_k']}"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _ports_differ(cls, values: dict) -> dict:
        names = [name for name in ("http_port", "grpc_port", "metrics_port") if values[name]]
        for place, name in enumerate(names):
            for other in names[:place]:
                if values[name] == values[other]:
                    raise ValueError(
                        f"{other} and {name} are both {values[name]}; set one to another port, or "
                        "to 0 for any free one"
                    )
        return values

    @root_validator(skip_on_failure=True)
    def _preferred_batches_within_limit(cls, values: dict) -> dict:
        limit = values["max_batch_size"]
        if wrong := [size for size in values["preferred_batch_sizes"] if size > limit]:
            raise ValueError(
                f"preferred_batch_sizes has {wrong[0]}; expected 1 to max_batch_size = {limit}"
            )
        return values
