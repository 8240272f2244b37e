"""Check that the tidy tables have the columns and kinds of values that the settings name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.workflows.errors import DataError
from twotower.workflows.features.config import FeaturesConfig, PositivesConfig
from twotower.workflows.features.names import internal_name
from twotower.workflows.features.sides import Side
from twotower.workflows.interactions.positives import check_stored
from twotower.workflows.stored import StoredRows
from twotower.workflows.tables import read_frame
from twotower.workflows.vectors import check_vectors

MAX_NUMBER = 1e150
"""Numbers are squared to compute the variance; the square must fit in a float64."""
MISSING_MARKS = {-(2**63), "\uffff"}
"""Values that mean "missing" in the lists of a request: see `serving.runtime.contract`."""


def check_data(data: Path, positives: PositivesConfig, features: FeaturesConfig) -> None:
    """Check the tidy tables in the folder `data` against the settings.

    This needs neither NVTabular nor TensorFlow, so errors appear before their slow import.

    Raises
    ------
    DataError
        The message names the setting and the column.
    """
    path = data / "interactions.parquet"
    check_stored(path, positives, features)
    check_context(path, features)
    tables = []
    for side in features.sides:
        path = data / f"{side.name}s.parquet"
        check_vectors(path, side.vectors, f"features.{side.name}_vectors")
        tables.append(read_frame(path, without=side.vectors))
    users, items = tables
    check_sides(users, items, features)


def check_context(path: Path, features: FeaturesConfig) -> None:
    """Check the columns of the interactions in the file `path` that are context.

    Raises
    ------
    DataError
        The message names the column, a value and what to do.
    """
    there = pq.read_schema(path).names
    if features.time and features.time_column not in there:
        raise DataError(
            f"features.time: the interactions have no {features.time_column}. If the files have "
            f"the time, name its column in ingest.files.columns, as {{{features.time_column}: "
            "<column>}, and run `twotower ingest` again; else leave features.time out"
        )
    if missing := [column for column in features.stored_context if column not in there]:
        raise DataError(
            f"features.context: the interactions have no column {', '.join(missing)}; they have "
            f"{', '.join(there)}"
        )
    if features.stored_context:
        side = features.of_interaction._replace(
            categorical=features.context, numeric=features.context_numeric
        )
        check_table(_extremes(path, side), side)


def _extremes(path: Path, side: Side) -> pd.DataFrame:
    """Return a few values of each column of stored interactions that decide whether it is right.

    These are a known value, and of a number the one farthest from 0, of each batch of rows.
    """
    found: dict[str, list[Any]] = {column: [] for column in side.columns}
    for batch in StoredRows((path,)).batches(side.columns):
        for column, values in found.items():
            known = batch[column].drop_null()
            is_number = pa.types.is_integer(known.type) or pa.types.is_floating(known.type)
            if len(known) and column in side.numeric and is_number:
                values.extend({pc.min(known).as_py(), pc.max(known).as_py()})
            elif len(known):
                values.append(known[0].as_py())
    schema = pq.read_schema(path)
    return pd.DataFrame(
        {
            column: pa.array(values, schema.field(column).type).to_pandas()
            for column, values in found.items()
        }
    )


def check_sides(users: pd.DataFrame, items: pd.DataFrame, features: FeaturesConfig) -> None:
    """Check the tidy tables against `features`, without the history, which is added later."""
    for side, table in zip(features.sides, (users, items), strict=True):
        given = {name: length for name, length in side.multi_hot.items() if name != side.history}
        check_table(table, side._replace(multi_hot=given))


def check_table(table: pd.DataFrame, side: Side) -> None:
    """Check that a table has the side's columns, with values of the kind that the side requires.

    Raises
    ------
    DataError
        The message names the column, a value and what to do.
    """
    missing = [column for column in side.columns if column not in table]
    if missing:
        raise DataError(
            f"features: the {side.name}s table has no column {', '.join(missing)}; "
            f"it has {', '.join(table.columns)}. If the files have it, run `twotower ingest` again"
        )
    for column in side.categorical:
        _check_categorical(table[column], side)
    for column in side.multi_hot:
        check = _check_texts if column in side.text else _check_lists
        check(table[column].dropna(), side)
    for column in side.numeric:
        _check_numbers(table[column].dropna(), side)


def _check_categorical(values: pd.Series, side: Side) -> None:
    where, known = f"features.{side.name}: column {values.name}", values.notna().to_numpy()
    if not known.any():
        raise DataError(f"{where} has no value in any row; leave it out")
    # All values of a parquet column have the same type, so one is enough.
    if _is_list(values.iloc[int(known.argmax())]):
        advice = f"name it under features.{side.name}_multi_hot with the maximum length of a list"
        if side.name == "context":
            advice = "context has one value per interaction: store one value per row"
        raise DataError(f"{where} has lists; {advice}")


def _check_numbers(values: pd.Series, side: Side) -> None:
    where = f"features.{side.name}_numeric: column {values.name}"
    if not len(values):
        raise DataError(f"{where} has no value; leave it out")
    if not pd.api.types.is_numeric_dtype(values):
        is_list = _is_list(values.iloc[0]) and side.name != "context"
        kind = f"{side.name}_multi_hot" if is_list else side.name
        raise DataError(
            f"{where} has {values.iloc[0]!r}, not a number; store numbers, or name it under "
            f"features.{kind}"
        )
    numbers = values.to_numpy(np.float64)
    largest = numbers[np.abs(numbers).argmax()]
    if np.isinf(largest):
        raise DataError(f"{where} has {largest}; use null for an unknown value")
    if abs(largest) > MAX_NUMBER:
        raise DataError(
            f"{where} has {largest:g}, whose square is too large for a float64; divide the numbers "
            "by a constant or take their logarithm"
        )


def _is_list(value: object) -> bool:
    return isinstance(value, (list, np.ndarray))


def _check_lists(values: pd.Series, side: Side) -> None:
    setting, column = f"features.{side.name}_multi_hot", values.name
    bad = [value for value in values if not _is_list(value)]
    if bad:
        has_words = side.name == "item" and isinstance(bad[0], str)
        raise DataError(
            f"{setting}: column {column} has {bad[0]!r}, not a list; store lists, or name it "
            f"under features.{side.name}"
            + (" or, to use its words, under features.item_text" if has_words else "")
        )
    rows = [row for row in values if len(row)]
    if not rows:
        return
    numbers = np.concatenate(rows)
    if side.name == "user":
        _check_no_missing_mark(numbers, str(column))
    if numbers.dtype.kind == "f" and (fractions := numbers[numbers % 1 > 0]).size:
        raise DataError(
            f"{setting}: column {column} has lists of fractions such as {fractions[0]:g}, but each "
            "different number would be a category of its own. If the lists are vectors, name the "
            f"column under features.{side.name}_vectors: {{{column}: {len(rows[0])}}}; if the "
            "fractions are categories, such as sizes, store them as text"
        )


def _check_no_missing_mark(values: np.ndarray, column: str) -> None:
    """Raise DataError if a value cannot be given in a request, where it means "missing"."""
    if values.dtype.kind in "iu":
        values = values[values == -(2**63)]
    kinds = (int, np.integer, str)
    found = next(
        (value for value in values if isinstance(value, kinds) and value in MISSING_MARKS), None
    )
    if found is not None:
        raise DataError(
            f"features.user_multi_hot: column {column} has lists with {found!r}, which means "
            "a missing value in requests; replace it or leave it out"
        )


def _check_texts(values: pd.Series, side: Side) -> None:
    bad = [value for value in values if not isinstance(value, str)]
    if bad:
        found, place = repr(bad[0]), f"{side.name} or {side.name}_numeric"
        if _is_list(bad[0]):
            found, place = "a list", f"{side.name}_multi_hot"
        raise DataError(
            f"features.{side.name}_text: column {values.name} has {found}, not a text; store "
            f"texts, or name it under features.{place}"
        )


def check_training(distinct: Mapping[str, int], side: Side) -> None:
    """Check that the training part has something to learn from in each column.

    Parameters
    ----------
    distinct : mapping of str to int
        The number of different values of each column, by internal names. Nulls count in lists only.
    side : Side
        With the names in the data.

    Raises
    ------
    DataError
        If a category or a list has no value, or a numeric column no two different ones. The message
        names the column.
    """
    for column in side.categorical:
        if not distinct[internal_name(column)]:
            raise DataError(
                f"features.{side.name}: column {column} has no value in the training part; leave "
                "it out"
            )
    for column in side.multi_hot:
        if not distinct[internal_name(column)]:
            kind, found = "multi_hot", "only empty lists"
            if column in side.text:
                kind, found = "text", "no word"
            raise DataError(
                f"features.{side.name}_{kind}: column {column} has {found} in the training part; "
                "leave it out"
            )
    for column in side.numeric:
        # Rounding can give Normalize a tiny deviation, by which it would divide other values.
        if distinct[internal_name(column)] < 2:
            raise DataError(
                f"features.{side.name}_numeric: column {column} has no two different values in "
                "the training part; leave it out"
            )
