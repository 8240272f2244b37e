"""Encoded tables as arrays."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tests.workflows.features.conftest import CONFIG, ITEMS, WIDE_CONFIG, WIDE_USERS
from twotower.workflows.features.encode import as_arrays, encode


def test_multi_hot_rows_are_cut_and_padded(workflow):
    arrays = as_arrays(encode(workflow, "item", ITEMS), CONFIG.item_multi_hot)
    war, drama = arrays["genres"][0]
    assert arrays["genres"].tolist() == [[war, drama], [drama, 0], [0, 0]]
    assert min(war, drama) >= 3
    assert {name: (a.shape, a.dtype) for name, a in arrays.items()} == {
        "item_id": ((3, 1), np.int32),
        "year": ((3, 1), np.int32),
        "genres": ((3, 2), np.int32),
    }


def test_lists_that_are_null_are_empty_and_nulls_in_a_list_unknown(wide):
    arrays = as_arrays(encode(wide, "user", WIDE_USERS), WIDE_CONFIG.user_multi_hot)
    (a, b), (seven, *_) = arrays["likes"][0], arrays["codes"][0]
    eight = arrays["codes"][1, 1]
    assert len({a, b}) == 2 and min(a, b) >= 3
    assert arrays["likes"].tolist() == [[a, b], [0, 0], [0, 0], [b, 2]]
    assert arrays["codes"].tolist() == [
        [seven, 0, 0],
        [seven, eight, 0],
        [0] * 3,
        [eight, 2, seven],
    ]
    assert {name: (array.shape, array.dtype) for name, array in arrays.items()} == {
        "user_id": ((4, 1), np.int32),
        "likes": ((4, 2), np.int32),
        "codes": ((4, 3), np.int32),
        "height": ((4, 1), np.float32),
        "visits": ((4, 1), np.float32),
    }


def test_lists_and_numbers_survive_parquet(wide, tmp_path):
    expected = as_arrays(encode(wide, "user", WIDE_USERS), WIDE_CONFIG.user_multi_hot)
    WIDE_USERS.to_parquet(tmp_path / "users.parquet")
    encoded = encode(wide, "user", pd.read_parquet(tmp_path / "users.parquet"))
    encoded.to_parquet(tmp_path / "encoded.parquet")
    arrays = as_arrays(pd.read_parquet(tmp_path / "encoded.parquet"), WIDE_CONFIG.user_multi_hot)
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name])
        assert array.dtype == expected[name].dtype


def test_a_row_is_encoded_alone_as_among_others(wide):
    together = as_arrays(encode(wide, "user", WIDE_USERS), WIDE_CONFIG.user_multi_hot)
    for row in range(len(WIDE_USERS)):
        alone = encode(wide, "user", WIDE_USERS.iloc[[row]])
        for name, array in as_arrays(alone, WIDE_CONFIG.user_multi_hot).items():
            np.testing.assert_array_equal(array[0], together[name][row])
