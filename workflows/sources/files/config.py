"""Settings: where the files are, how to read them, and what their columns mean."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, root_validator, validator

from twotower.workflows.sources.data_path import DataPath
from twotower.workflows.sources.formats.options import Format
from twotower.workflows.sources.time_texts import check_format
from twotower.workflows.sources.times import UNITS

TableName = Literal["interactions", "users", "items"]


class FilesConfig(BaseModel, extra="forbid"):
    """Where the files are, how to read them, and what their columns mean."""

    interactions: DataPath = Field(
        ...,
        description="File, folder, glob pattern or zip with one row per interaction, relative to "
        "`ingest.path`: parquet, CSV (with any separator) or JSON lines; text may be gzipped. Also "
        "s3:// and gs:// paths.",
    )
    users: DataPath | None = Field(
        None,
        description="The same with one row per user. User features that it lacks, or all of them "
        "without it, are read from the interactions (see `differing`).",
    )
    items: DataPath | None = Field(
        None,
        description="The same with one row per item. Item features that it lacks, or all of them "
        "without it, are read from the interactions (see `differing`).",
    )
    available: str | None = Field(
        None,
        description="Column of the items file that says whether an item may be recommended: true, "
        "or a number above 0, such as the stock. An item with false or 0 is withdrawn: it is in no "
        "answer, but its interactions are learnt from. An item without a value may be recommended.",
    )
    catalogue: Literal["additions", "complete"] = Field(
        "additions",
        description="What it means that the items file does not list an item. additions: nothing; "
        "an update may bring only new and changed items. complete: the item is withdrawn, until an "
        "update lists it again.",
    )
    columns: dict[str, str] = Field(
        {},
        description="Column names that differ in the files, as {name in this project: name in the "
        "file}, for example {user_id: uid, item_id: sku}. A users or items file may use either "
        "name. `rating` and `timestamp` are read if they are here."
        " A column that is called timestamp is also read if the split or the history needs it.",
    )
    order: str | None = Field(
        None,
        description="Column of the interactions with whole numbers that order those of a user, "
        "such as the place in a sequence, for data without times. With times, it orders rows that "
        "have the same one. It is no time: `split.method` temporal cannot use it. The numbers of "
        "an update go on after those before.",
    )
    id_columns: dict[Literal["users", "items"], str] = Field(
        {},
        description="The id column of a users or items file, if its name is neither that of the "
        "interactions nor ours, for example {items: sku}.",
    )
    keep: list[str] = Field(
        [],
        description="Further columns of the interactions to keep. Columns that `features`, "
        "`positives` and `show` name are read without being listed here.",
    )
    format: Format = Field(
        "auto",
        description="Format of the files. auto: as their names end, or else their content says.",
    )
    separator: str | None = Field(
        None,
        min_length=1,
        description="Text between two fields of a CSV file, of one or more characters. null: "
        "found, and named in a line.",
    )
    header: bool | None = Field(
        None,
        description="Whether the first line of a CSV file has the names of the columns. null: "
        "found, and named in a line.",
    )
    column_names: dict[TableName, list[str]] = Field(
        {},
        description="Names of the columns of CSV files without a header, such as {interactions: "
        "[user_id, item_id, timestamp]}. Without it they are column_1, column_2 and so on.",
    )
    encoding: str | None = Field(
        None,
        description="Encoding of text files, such as utf-8, latin-1 or utf-16. null: UTF-8, UTF-16 "
        "with a byte order mark, or else Windows-1252, which includes latin-1.",
    )
    quotes: bool | None = Field(
        None,
        description="Whether a field of a CSV file may be in double quotes, within which "
        "separators and line breaks belong to the value. null: if the separator is one character.",
    )
    text_columns: list[str] = Field(
        [],
        description="Columns of CSV files to read as text even if all values are numbers. Numbers "
        "with leading zeros, such as 00042, are text anyway.",
    )
    duplicates: Literal["auto", "error", "keep_last", "keep_all"] = Field(
        "auto",
        description="What to do when a (user_id, item_id) pair occurs more than once. keep_last: "
        "keep only its last row. keep_all: keep all rows; `split.repeats` says what the split does "
        "with the positive rows of a pair. auto: keep_all with `split.repeats` keep, and if "
        "`positives.values`, `positives.weight` or a `positives.column` other than rating reads "
        "each row, so that a later view does not replace a purchase and weights add up; keep_last "
        "otherwise. error: stop.",
    )
    part_folders: bool = Field(
        False,
        description="Whether the interactions get the column `part` from the folder train, valid "
        "or test that their file is in, for `split.method` column. A file in no such folder has no "
        "part.",
    )
    differing: Literal["error", "keep_last"] = Field(
        "error",
        description="What to do when a feature that is read from the interactions has more than "
        "one value for a user or an item. error: stop. keep_last: use the last value in "
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

    @root_validator(pre=True)
    def _features_are_named_once(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name in ("user_features", "item_features"):
            if name in values:
                raise ValueError(
                    f"{name}: no longer needed; a column that `features` names is read from "
                    "wherever it is. Remove this setting, and name the columns under `features`"
                )
        return values

    @root_validator(skip_on_failure=True)
    def _catalogue_is_a_file(cls, values: dict[str, Any]) -> dict[str, Any]:
        asked = values["available"] is not None or values["catalogue"] == "complete"
        if asked and values["items"] is None:
            raise ValueError("available and catalogue describe the file `items`; name it")
        return values

    @property
    def catalogue_columns(self) -> tuple[str, ...]:
        """The column `available`, if there is one."""
        return () if self.available is None else (self.available,)

    @property
    def paths(self) -> list[DataPath]:
        """The paths that are set."""
        return [path for path in (self.interactions, self.users, self.items) if path is not None]
