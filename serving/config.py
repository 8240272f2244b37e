"""Settings of the exported model and of the server that runs it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, conint, root_validator

MAX_NUMBER = 1_000_000  # more than anybody needs, and Triton, FAISS and memory allow it


class ServingConfig(BaseModel):
    """How the query tower, the index and the user table become a Triton model."""

    runtime: Literal["compiled", "merlin"] = Field(
        "compiled",
        description="compiled: a plan run with NumPy, ONNX Runtime and FAISS alone; "
        "merlin: the stock merlin-systems executor with TensorFlow and NVTabular inside",
    )
    seen: Literal["train_valid", "positives", "interactions"] = Field(
        "train_valid", description="which interactions make an item one that the user has seen"
    )
    default_k: int = Field(
        10, ge=1, le=MAX_NUMBER, description="items a request gets when it does not say"
    )
    max_k: int = Field(1000, ge=1, le=MAX_NUMBER, description="most items a request may ask for")
    max_batch_size: int = Field(1024, ge=1, le=MAX_NUMBER, description="most users in one request")
    preferred_batch_sizes: list[conint(ge=1, le=MAX_NUMBER)] = Field(
        [], description="how many users Triton tries to bring together for one call of the model"
    )
    queue_delay_us: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="microseconds a request may wait for others to reach such a size",
    )
    threads: int = Field(
        2,
        ge=1,
        le=1024,
        description="threads that share a large batch (or TensorFlow's) in the model",
    )
    keep_versions: int = Field(
        3, ge=2, le=MAX_NUMBER, description="newest versions kept when one is published"
    )
    host: str = Field("127.0.0.1", min_length=1, description="address the server listens on")
    http_port: int = Field(0, ge=0, le=65535, description="HTTP port; 0 takes a free one")
    grpc_port: int = Field(0, ge=0, le=65535, description="gRPC port; 0 takes a free one")
    metrics_port: int = Field(0, ge=0, le=65535, description="metrics port; 0 takes a free one")
    startup_seconds: float = Field(
        180.0, gt=0, le=1e6, description="how long the server may take to load"
    )

    class Config:
        extra = "forbid"

    @root_validator(skip_on_failure=True)
    def _default_within_limit(cls, values: dict) -> dict:
        if values["default_k"] > values["max_k"]:
            raise ValueError(
                f"default_k = {values['default_k']} is above max_k = {values['max_k']}"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _a_port_for_each(cls, values: dict) -> dict:
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
    def _batches_within_limit(cls, values: dict) -> dict:
        limit = values["max_batch_size"]
        if wrong := [size for size in values["preferred_batch_sizes"] if size > limit]:
            raise ValueError(
                f"preferred_batch_sizes has {wrong[0]}; expected 1 to max_batch_size = {limit}"
            )
        return values
