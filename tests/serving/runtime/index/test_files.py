"""The FAISS index: raw ids, exact search, bound to its towers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.index import build_index, load_index


def test_search_answers_the_inner_product_under_raw_ids(tmp_path):
    draw = np.random.default_rng(0)
    ids = draw.permutation(50) + 2**40
    vectors = draw.normal(size=(50, 4)).astype(np.float32)
    metadata = build_index(ids, vectors, tmp_path, "ab")
    index = load_index(tmp_path, "ab")
    queries = draw.normal(size=(3, 4)).astype(np.float32)
    scores, positions = index.search(queries, 50)
    expected = queries @ vectors.T
    np.testing.assert_array_equal(index.item_ids[positions], ids[np.argsort(-expected, axis=1)])
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1), atol=1e-5)
    assert (metadata["count"], metadata["dim"], metadata["metric"]) == (50, 4, "inner_product")
    assert index.metadata == metadata == json.loads((tmp_path / "index.json").read_text())


def test_equal_scores_rank_by_item_id(tmp_path):
    build_index(np.array([9, 4, 7, 1]), np.ones((4, 2), np.float32), tmp_path, "ab")
    index = load_index(tmp_path)
    for k in (4, 3):
        _, positions = index.search(np.ones((2, 2), np.float32), k)
        assert index.item_ids[positions].tolist() == [[1, 4, 7, 9][:k]] * 2


def test_the_index_of_other_towers_is_refused(tmp_path):
    build_index(np.arange(3), np.eye(3, dtype=np.float32), tmp_path, "their-hash")
    with pytest.raises(ServingError, match=r"their-hash.*our-hash"):
        load_index(tmp_path, "our-hash")


@pytest.mark.parametrize(
    "ids, vectors, message",
    [
        ([1, 1, 2], np.eye(3), "item id 1 occurs more than once"),
        ([1, 2], np.eye(3), r"expected float32 \[2, D\]"),
        ([1, 2, 3], np.ones(3), r"expected float32 \[3, D\]"),
        ([], np.ones((0, 3)), "n >= 1"),
        (["a", "b", "c"], np.eye(3), "expected int64"),
        ([1, 2, 3], np.diag([1, np.nan, 1]), "the vector of item 2 is not finite"),
        ([1, 2, 3], np.diag([1, 1, np.inf]), "the vector of item 3 is not finite"),
    ],
)
def test_a_bad_input_is_refused(ids, vectors, message, tmp_path):
    with pytest.raises(ServingError, match=message):
        build_index(np.array(ids), vectors, tmp_path, "ab")
    assert not list(tmp_path.iterdir())


def test_a_broken_index_is_named(tmp_path):
    with pytest.raises(ServingError, match=r"index\.json: no index metadata"):
        load_index(tmp_path)
    build_index(np.arange(3), np.eye(3, dtype=np.float32), tmp_path, "ab")
    file = tmp_path / "index.faiss"
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(ServingError, match=r"index\.faiss: FAISS cannot read it"):
        load_index(tmp_path)
    build_index(np.arange(2), np.eye(2, dtype=np.float32), tmp_path / "other", "ab")
    (tmp_path / "other" / "index.faiss").rename(file)
    with pytest.raises(ServingError, match=r"holds 2 x 2, index\.json says 3 x 3"):
        load_index(tmp_path)
