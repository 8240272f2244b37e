"""Values of Python become arrays of Triton's types."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from twotower.serving.client.values import _cast, id_column, read_values
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.tensors import NUMPY_DTYPES


def test_arrays_of_integers_are_cast_as_a_whole(monkeypatch):
    monkeypatch.setattr(
        "twotower.serving.client.values._convert", lambda *_: pytest.fail("value by value")
    )
    ids = np.arange(256, dtype=np.uint32)
    cast = _cast("user_id", ids, "INT64", nullable=False)
    assert cast.dtype == np.int64 and cast.tolist() == ids.tolist()


@pytest.mark.parametrize(
    "values, datatype, expected",
    [
        ([2**64 - 2, 0], "UINT64", [2**64 - 2, 0]),
        (np.array([2**63, 1], np.uint64), "UINT64", [2**63, 1]),
        (np.array([5, 1], np.int64), "UINT64", [5, 1]),
        (np.array([5, 1], np.uint64), "INT64", [5, 1]),
        (pd.Series([-5, 2**63 - 1]), "INT64", [-5, 2**63 - 1]),
        (pd.array([7, 8], "Int64"), "INT64", [7, 8]),
        ([7.0], "INT64", [7]),
        (["007", "é"], "BYTES", [b"007", "é".encode()]),
        (np.array(["a", "b"]), "BYTES", [b"a", b"b"]),
        (pd.Series(["a", "b"], dtype="category"), "BYTES", [b"a", b"b"]),
        (pd.Series(["a", "b"], dtype="string"), "BYTES", [b"a", b"b"]),
    ],
)
def test_ids_of_any_container_are_sent_exactly(values, datatype, expected):
    column = id_column("user_id", read_values("user_id", values), datatype)
    assert column.shape == (len(expected), 1)
    assert column[:, 0].tolist() == expected
    assert column.dtype == NUMPY_DTYPES[datatype]


@pytest.mark.parametrize(
    "values, datatype, message",
    [
        ([-1], "UINT64", r"holds -1; the model takes an integer of 0 or more \(UINT64\)"),
        (np.array([-1]), "UINT64", "holds -1; the model takes"),
        ([2**64], "UINT64", "holds 18446744073709551616; the model takes"),
        (np.array([2**63], np.uint64), "INT64", "holds 9223372036854775808; the model takes"),
        ([7], "BYTES", r"holds 7; the model takes text \(BYTES\)"),
        (np.array([7]), "BYTES", r"holds 7; the model takes text \(BYTES\)"),
        (["7"], "INT64", "holds '7'; the model takes an integer"),
        ([None], "BYTES", "holds None; the model takes text"),
        (["\ud800"], "BYTES", r"holds '\\ud800'; the model takes text"),
        ([2.0**53], "INT64", r"holds 9007199254740992\.0, a float, which may have been rounded"),
        (np.array([1e18]), "INT64", r"holds 1e\+18, a float, which may have been rounded"),
    ],
)
def test_an_id_that_could_become_another_is_refused(values, datatype, message):
    with pytest.raises(ServingError, match=f"input 'user_id' {message}"):
        id_column("user_id", read_values("user_id", values), datatype)
