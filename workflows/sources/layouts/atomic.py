"""RecBole's atomic files: tab-separated columns whose header names their type.

The format: https://recbole.io/docs/user_guide/data/atomic_files.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv

from twotower.workflows.errors import DataError
from twotower.workflows.sources.files.config import FilesConfig
from twotower.workflows.sources.findings import Findings
from twotower.workflows.sources.formats.text_types import typed
from twotower.workflows.sources.layouts.base import Published, Side
from twotower.workflows.sources.layouts.place import Place

_FIELD = re.compile(r"([^:\t]+):(token|token_seq|float|float_seq)")
_LIST = pa.list_(pa.string())
_IDS: dict[Side, tuple[str, str]] = {"users": ("user_id", ".user"), "items": ("item_id", ".item")}


class Field(NamedTuple):
    """A column of an atomic file, such as age:token."""

    name: str
    type: str

    def __str__(self) -> str:
        return f"{self.name}:{self.type}"


class Atomic(Published):
    """Interactions in <name>.inter, users in <name>.user and items in <name>.item.

    Columns of sequences become lists. The columns user_id and item_id are those with these names,
    or the first ones of the files of users and items.
    """

    name = "atomic"
    contents = "RecBole's atomic files (<name>.inter, with columns such as user_id:token)"
    download = "https://recbole.io/dataset_list.html"

    @classmethod
    def is_at(cls, place: Place) -> bool:
        """Whether a file .inter, .user or .item has a header with types."""
        names = [name for name in place.names if Path(name).suffix in (".inter", ".user", ".item")]
        return any(_fields(place, name) for name in names)

    def interactions(self, place: Place) -> FilesConfig | None:
        """The file .inter; columns lose their types, and all but sequences are kept."""
        name = _only(place, ".inter")
        if name is None:
            return None
        fields = _checked(place, name)
        columns = {field.name: str(field) for field in fields if not field.type.endswith("_seq")}
        for side, (key, ending) in _IDS.items():
            if key in columns:
                continue
            file = _only(place, ending)
            given = _checked(place, file)[0].name if file else ""
            if given not in columns:
                raise DataError(
                    f"{place.path(name)}, line 1: {', '.join(map(str, fields))}; no "
                    f"{key}:token and no first column of the {side}; name it {key}:token, or use "
                    "source files"
                )
            columns[key] = columns.pop(given)
        keep = [column for column in columns if column not in ("user_id", "item_id")]
        return FilesConfig(interactions=Path(name), columns=columns, keep=keep)

    def side_files(self, place: Place) -> Mapping[Side, str]:
        """The files .user and .item that exist."""
        found = {side: _only(place, ending) for side, (_, ending) in _IDS.items()}
        return {side: name for side, name in found.items() if name is not None}

    def read_side(
        self, place: Place, side: Side, ids: pa.ChunkedArray | None, findings: Findings
    ) -> pa.Table:
        """All columns, with the types of the header."""
        return _table(place, self.side_files(place)[side], _IDS[side][0])


def _only(place: Place, ending: str) -> str | None:
    """The file with an ending; DataError if there are several."""
    names = sorted(name for name in place.names if name.endswith(ending))
    if len(names) > 1:
        raise DataError(
            f"{place.folder}: {len(names)} files end in {ending}: {', '.join(names[:3])}; leave "
            "one data set in the folder"
        )
    return names[0] if names else None


def _fields(place: Place, name: str) -> list[Field]:
    """The columns of a file; none if its first line is no header with types."""
    first = (place.head(name) or [""])[0]
    matches = [_FIELD.fullmatch(part) for part in first.split("\t")]
    return [Field(match[1], match[2]) for match in matches if match] if all(matches) else []


def _checked(place: Place, name: str) -> list[Field]:
    if fields := _fields(place, name):
        return fields
    first = (place.head(name) or [""])[0]
    raise DataError(
        f"{place.path(name)}, line 1: {first[:80]!r}; expected columns with types, such as "
        "user_id:token and rating:float, separated by tabs"
    )


def _table(place: Place, name: str, key: str) -> pa.Table:
    """Read users or items; the first column has the ids."""
    fields = _checked(place, name)
    texts = {str(number): pa.string() for number in range(len(fields))}
    with place.open(name) as file:
        try:
            table = pyarrow.csv.read_csv(
                pa.PythonFile(file, "r"),
                pyarrow.csv.ReadOptions(column_names=list(texts), skip_rows=1),
                pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False),
                pyarrow.csv.ConvertOptions(
                    column_types=texts, null_values=[""], strings_can_be_null=True
                ),
            )
        except pa.ArrowInvalid as error:
            raise DataError(f"{place.path(name)}: cannot be read: {error}") from error
    columns = {key: table["0"]}
    for number, field in list(enumerate(fields))[1:]:
        columns[field.name] = _values(table[str(number)], field, f"{place.path(name)}")
    return pa.table(columns)


def _values(texts: pa.ChunkedArray, field: Field, where: str) -> pa.Array:
    """Convert the texts of a column to its type; values of sequences are separated by spaces."""
    try:
        if field.type.endswith("_seq"):
            lists = pa.array([(text or "").split() for text in texts.to_pylist()], _LIST)
            return lists.cast(pa.list_(pa.float64())) if field.type == "float_seq" else lists
        return texts.cast(pa.float64()) if field.type == "float" else typed(texts)
    except pa.ArrowInvalid as error:
        raise DataError(f"{where}, column {field}: {error}") from error
