"""Join the parts of a column, which may have different types, into one type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from twotower.workflows.errors import DataError
from twotower.workflows.sources.arrow_types import is_time, is_untyped, tidy
from twotower.workflows.sources.columns import Stored
from twotower.workflows.sources.formats.options import ReadOptions
from twotower.workflows.sources.formats.parts import Part
from twotower.workflows.sources.formats.text_types import as_number, first_not, typed
from twotower.workflows.tables import EXACT, UNREADABLE


class Joined(NamedTuple):
    """The values of a column, and the number of words among numbers that became null."""

    values: pa.ChunkedArray
    words: int


def join(
    values: list[pa.ChunkedArray],
    stored: Sequence[Stored | None],
    parts: Sequence[Part],
    options: ReadOptions,
    keep_unsigned: bool = False,
) -> Joined:
    """Join the parts of a column.

    Text of CSV files becomes numbers if all of it can (see `text_types`). A part without any value
    takes the type of the others. Integers beside floats stay integers if all floats are whole
    numbers, and become floats otherwise.

    Parameters
    ----------
    values : list of ChunkedArray
        The values of each part, as stored.
    stored : sequence of Stored or None
        The column in each part; None where it is missing.
    parts : sequence of Part
    options : ReadOptions
    keep_unsigned : bool
        Whether uint64 stays as it is.

    Raises
    ------
    DataError
        If the types differ otherwise, or are not supported; the message names the file.
    """
    before = sum(part.null_count for part in values)
    values = _texts_typed(values, stored, parts, options)
    words = sum(part.null_count for part in values) - before
    kinds: dict[str, Stored] = {}
    for index, place in enumerate(stored):
        if place is None:
            continue
        try:
            values[index] = tidy(values[index], keep_unsigned)
        except pa.ArrowNotImplementedError as error:
            raise DataError(f"{place}: {error}") from error
        except UNREADABLE as error:
            raise DataError(f"{place}: cannot be read: {error}") from error
        if not is_untyped(values[index].type):
            kinds.setdefault("times" if is_time(place.type) else str(values[index].type), place)
    if set(kinds) == {"int64", "double"}:
        values = _whole_if_all(values)
    elif set(kinds) == {"int64", "uint64"} and not _any_negative(values):
        values = [part if is_untyped(part.type) else part.cast(pa.uint64()) for part in values]
    elif len(kinds) > 1:
        (one, place), (other, differing) = list(kinds.items())[:2]
        raise DataError(
            f"{differing}: {other}, but {place.path} has {one}; different types in the files: "
            "store one type in all of them"
        )
    # A part in which the column has no value may have no type for it.
    types = [part.type for part in values]
    kind = min(types, key=lambda each: (is_untyped(each), pa.types.is_null(each)))
    chunks = [chunk for part in values for chunk in part.cast(kind).chunks]
    return Joined(pa.chunked_array(chunks, kind), words)


def _any_negative(values: list[pa.ChunkedArray]) -> bool:
    smallest = [pc.min(part).as_py() for part in values if pa.types.is_int64(part.type)]
    return any(each is not None and each < 0 for each in smallest)


def _texts_typed(
    values: list[pa.ChunkedArray],
    stored: Sequence[Stored | None],
    parts: Sequence[Part],
    options: ReadOptions,
) -> list[pa.ChunkedArray]:
    """Give the columns of CSV files one type together."""
    texts = [
        index
        for index, place in enumerate(stored)
        if place is not None
        and parts[index].is_plain_text(place.name)
        and pa.types.is_string(place.type)
    ]
    if not texts:
        return values
    place = stored[texts[0]]
    assert place is not None
    column = pa.chunked_array([chunk for i in texts for chunk in values[i].chunks], pa.string())
    kind = options.types.get(place.name)
    if kind is None:
        column = typed(column)
    elif not pa.types.is_string(kind):
        column = _known(column, kind, [parts[index] for index in texts], place.name)
    found, start = list(values), 0
    for index in texts:
        found[index] = column.slice(start, len(values[index]))
        start += len(values[index])
    return found


def _known(
    column: pa.ChunkedArray, kind: pa.DataType, parts: Sequence[Part], name: str
) -> pa.ChunkedArray:
    """Convert text to a known type; DataError naming the first value that has another."""
    try:
        return as_number(column, kind)
    except pa.ArrowInvalid as error:
        row = found = first_not(column, kind)
        if row < 0:
            raise DataError(f"{parts[0].file}, column {name}: {error}") from error
        for part in parts:
            if row < part.num_rows:
                break
            row -= part.num_rows
        raise DataError(
            f"{part.place(row)}, column {name}: {column[found].as_py()!r}; expected {kind}"
        ) from error


def all_whole(values: pa.ChunkedArray) -> bool:
    """Whether all floats are whole numbers, small enough to be exact."""
    whole = pc.and_(pc.equal(pc.trunc(values), values), pc.less(pc.abs(values), EXACT))
    return pc.all(whole).as_py() in (True, None)


def _whole_if_all(values: list[pa.ChunkedArray]) -> list[pa.ChunkedArray]:
    """Make integers and floats one type."""
    floats = [part for part in values if pa.types.is_floating(part.type)]
    kind = pa.int64() if all(map(all_whole, floats)) else pa.float64()
    return [part if is_untyped(part.type) else part.cast(kind) for part in values]
