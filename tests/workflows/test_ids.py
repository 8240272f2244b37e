"""Ids: what is encoded is decoded, codes never change, and wrong kinds are refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from twotower.workflows.errors import DataError
from twotower.workflows.ids import UNKNOWN, Ids, RunIds

TEXTS = ["b", "007", "7", "é", "e\u0301", "数", "\U0001f600", " ", "9f1c2d3e-0a1b-4c5d-8e9f-0011"]


@pytest.mark.parametrize(
    "values, kind",
    [
        (TEXTS, pa.string()),
        ([2**63 - 1, -5, 0, -(2**63) + 1, 2**53 + 1], pa.int64()),
        ([2**64 - 2, 2**63, 0, 2**53 + 1], pa.uint64()),
    ],
)
def test_ids_come_back_as_given_after_reading_and_writing(values, kind, tmp_path):
    column = pa.array(values, kind)
    Ids.of(column).write(tmp_path / "ids.parquet")
    ids = Ids.read(tmp_path / "ids.parquet")
    codes = ids.encode(column)
    assert (codes.dtype, len(set(codes.tolist()))) == (np.int64, len(values))
    assert ids.decode(codes).tolist() == values
    assert ids.decode(codes.reshape(1, -1)).shape == (1, len(values))
    assert ids.type == kind


def test_integers_are_their_own_codes_and_unsigned_ones_keep_their_bits():
    assert Ids.of(pa.array([7, -5])).encode(pa.array([-5, 7])).tolist() == [-5, 7]
    unsigned = pa.array([2**64 - 2, 3], pa.uint64())
    assert Ids.of(unsigned).encode(unsigned).tolist() == [-2, 3]


def test_texts_are_sorted_once_and_new_ones_are_appended_sorted():
    first = Ids.of(pa.array(["b", "a", "b"]), pa.array(["Z"]))
    assert first.texts.to_pylist() == ["Z", "a", "b"]
    later = first.extend(pa.array(["c", "a"]), pa.array(["B", "c"]))
    assert later.texts.to_pylist() == ["Z", "a", "b", "B", "c"]
    assert later.extend(pa.array(["a", "c"])).texts.to_pylist() == later.texts.to_pylist()
    assert later.encode(pa.array(["b", "nobody", "B"])).tolist() == [2, UNKNOWN, 3]


def test_a_dictionary_of_texts_counts_only_the_texts_that_occur():
    column = pa.DictionaryArray.from_arrays(pa.array([2, 0, 2]), pa.array(["b", "unused", "a"]))
    ids = Ids.of(column, pa.chunked_array([column, column]))
    assert ids.texts.to_pylist() == ["a", "b"]
    assert ids.encode(column).tolist() == [0, 1, 0]
    assert ids.encode(pa.chunked_array([column, column[:1]])).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    "kind, text, expected",
    [
        (pa.string(), "007", "007"),
        (pa.int64(), "007", 7),
        (pa.int64(), "-5", -5),
        (pa.int64(), str(2**63 - 1), 2**63 - 1),
        (pa.uint64(), str(2**64 - 2), 2**64 - 2),
    ],
)
def test_a_person_writes_any_id_as_text(kind, text, expected):
    assert Ids(kind).parse(text) == expected


@pytest.mark.parametrize(
    "kind, text",
    [(pa.int64(), "C00680"), (pa.int64(), "1_000"), (pa.int64(), str(2**63)), (pa.uint64(), "-1")],
)
def test_what_a_person_writes_must_fit_the_ids(kind, text):
    with pytest.raises(DataError, match=f"'{text}' is no id of this run: its ids are .*whole num"):
        Ids(kind).parse(text)


@pytest.mark.parametrize(
    "kind, values",
    [
        (pa.string(), [42]),
        (pa.string(), ["a", None]),
        (pa.string(), ["\ud800"]),
        (pa.int64(), ["42"]),
        (pa.int64(), [True]),
        (pa.int64(), [4.0]),
        (pa.int64(), [2**63]),
        (pa.uint64(), [-1]),
    ],
)
def test_values_of_another_kind_are_refused(kind, values):
    with pytest.raises(DataError, match="id"):
        Ids(kind).column(values)


def test_numpy_values_are_ids_too():
    values = [np.int64(3), np.uint64(2**63)]
    assert Ids(pa.uint64()).column(values).to_pylist() == [3, 2**63]


def test_a_column_of_another_type_is_not_encoded():
    with pytest.raises(DataError, match="the ids are text, not int64"):
        Ids(pa.string()).encode(pa.array([1]))


def test_a_run_without_files_of_ids_has_integers(tmp_path):
    assert RunIds.read(tmp_path).types == {"user_id": pa.int64(), "item_id": pa.int64()}
