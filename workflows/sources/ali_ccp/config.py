"""Settings of the source `ali-ccp-raw`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, validator

from twotower.workflows.sources.ali_ccp.fields import HISTORY, LISTS, SKELETON, USER


class AliCCPConfig(BaseModel, extra="forbid"):
    """How Ali-CCP's official text files are read."""

    on_error: Literal["fail", "skip"] = Field(
        "fail",
        description="What to do with a malformed line. fail: stop and name it. skip: leave it out; "
        "how many there are of each kind, and the first of each, is reported. The option "
        "--on-error sets it, too.",
    )
    lists: list[str] = Field(
        list(LISTS),
        description="Columns whose field may occur more than once in a line. Each becomes a list, "
        "with the values in a list <name>_weights. A second occurrence of any other field is an "
        "error.",
    )
    list_values: int = Field(
        100,
        ge=1,
        le=4096,
        description="Maximum length of a list in the users' features: those with the largest "
        "values are kept. contexts.parquet has the complete lists.",
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Number of threads that convert blocks of a file. Without it: one per "
        "processor.",
    )
    block_mb: int = Field(
        64,
        ge=1,
        le=1024,
        description="Megabytes of a file that are converted at a time by each thread, which needs "
        "about eight times as much memory. An interrupted conversion continues after the last "
        "complete block.",
    )

    @validator("lists")
    def _may_be_lists(cls, names: list[str]) -> list[str]:
        ids = (SKELETON[0].name, USER[0].name)
        known = [field.name for field in (*SKELETON, *USER, *HISTORY) if field.name not in ids]
        for name in names:
            if name not in known:
                raise ValueError(f"{name!r}: no such column; choose from {', '.join(known)}")
        return names
