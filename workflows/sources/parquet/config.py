"""Settings: where the parquet files are, and what their columns mean."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, validator

from twotower.workflows.sources.time_texts import check_format
from twotower.workflows.sources.times import UNITS


class ParquetConfig(BaseModel, extra="forbid"):
    """Where the parquet files are, and what their columns mean."""

    interactions: Path = Field(
        ...,
        description="File, folder or glob pattern with one row per interaction, relative to "
        "`ingest.path`.",
    )
    users: Path | None = Field(
        None,
        description="File, folder or glob pattern with one row per user. Without it, user features "
        "are read from the interactions (see `differing`).",
    )
    items: Path | None = Field(
        None,
        description="File, folder or glob pattern with one row per item. Without it, item features "
        "are read from the interactions (see `differing`).",
    )
    columns: dict[str, str] = Field(
        {},
        description="Column names that differ in the files, as {name in this project: name in the "
        "file}, for example {user_id: uid, item_id: sku}. A users or items file may use either "
        "name.",
    )
    keep: list[str] = Field(
        [],
        description="Further columns of the interactions to keep, for example rating, timestamp or "
        "click.",
    )
    user_features: list[str] = Field([], description="Columns of the user table, without user_id.")
    item_features: list[str] = Field([], description="Columns of the item table, without item_id.")
    duplicates: Literal["error", "keep_last", "keep_all"] = Field(
        "error",
        description="What to do when a (user_id, item_id) pair occurs more than once. error: stop. "
        "keep_last: keep only its last row. keep_all: keep all rows; use it for a log of "
        "impressions, where a later row without a click must not replace a click.",
    )
    differing: Literal["error", "keep_last"] = Field(
        "error",
        description="What to do when a feature that is read from the interactions has more than "
        "one value for a user or an item. error: stop. keep_last: use the value of the last row in "
        "file order. That row may belong to the test part, which makes test metrics too high.",
    )

    time_format: str | None = Field(
        None,
        description="How the column `timestamp` is written, where the values do not show it: a "
        f"strptime format such as '%d/%m/%Y %H:%M', or the unit of numbers ({', '.join(UNITS)}). "
        "null: one format or unit is found for the whole column, a line says which, and a column "
        "with more than one meaning is refused. Times without a zone are UTC.",
    )

    @validator("time_format")
    def _is_unit_or_format(cls, time_format: str | None) -> str | None:
        if time_format is not None and time_format not in UNITS:
            check_format(time_format)
        return time_format

    @property
    def paths(self) -> list[Path]:
        """The paths that are set."""
        return [path for path in (self.interactions, self.users, self.items) if path is not None]
