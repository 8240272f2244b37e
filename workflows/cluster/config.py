"""Settings: which processes preprocess the data."""

from __future__ import annotations

import re

from pydantic import BaseModel, Extra, Field, root_validator, validator

ADDRESS = re.compile(r"tcp://\S+:\d+")
SIZE = re.compile(r"auto|[0-9]+(\.[0-9]+)? ?[kMGT]i?B")


class DaskConfig(BaseModel, extra=Extra.forbid):
    """The processes that select positives, count vocabularies and encode tables."""

    workers: int = Field(
        0,
        ge=0,
        le=256,
        description="Number of processes on this machine, with one thread each. 0 uses none but "
        "the command's own. The result does not depend on it.",
    )
    scheduler: str | None = Field(
        None,
        description="Address of a running Dask scheduler, such as tcp://10.0.0.5:8786, whose "
        "workers are used instead. They need the same versions, and read and write the run folder "
        "under the same path. Its workers and this command can execute code for each other, so use "
        "a trusted one.",
    )
    worker_memory: str = Field(
        "auto",
        description="Memory per worker on this machine, such as 2GB; auto divides this machine's. "
        "A worker that needs more is ended and started again.",
    )

    @validator("scheduler")
    def _is_an_address(cls, address: str | None) -> str | None:
        if address is not None and not ADDRESS.fullmatch(address):
            raise ValueError(f"{address!r}: give an address such as tcp://10.0.0.5:8786")
        return address

    @validator("worker_memory")
    def _is_a_size(cls, size: str) -> str:
        if not SIZE.fullmatch(size):
            raise ValueError(f"{size!r}: give a size such as 2GB, or auto")
        return size

    @root_validator(skip_on_failure=True)
    def _one_of_both(cls, values: dict) -> dict:
        if values["workers"] and values["scheduler"]:
            raise ValueError("workers and scheduler both name processes to use; remove one")
        return values
