"""The compiled top-k step against a full sort, all rows at once and few, on several threads."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from twotower.serving.item_columns import item_columns
from twotower.serving.operators.top_k import NO_COLUMNS, FaissTopK
from twotower.serving.runtime.contract import ABSENT, VALUE, count_of, state_of
from twotower.serving.runtime.index import build_index
from twotower.serving.runtime.operators import top_k
from twotower.serving.seen import SeenItems

NAMES = {"row": "row", "vector": "vector", "item_id": "item", "towers_sha256": "ab"}


def make_step(folder, item_ids, vectors, seen, threads=1, history=None, columns=NO_COLUMNS):
    build_index(item_ids, vectors, folder / "index", "ab")
    (folder / "compiled").mkdir()
    operator = FaissTopK(folder / "index", seen, history=history, columns=columns, **NAMES)
    entry = operator.compile(folder / "compiled", None)
    return top_k.FaissTopK(folder / "compiled", entry, threads)


def full_sort(item_ids, scores, seen, k):
    """Ids [k] of one row by sorting everything: score descending, then id."""
    keep = ~np.isin(item_ids, seen)
    order = np.lexsort((item_ids[keep], -scores[keep]))[:k]
    ids = np.full(k, -1)
    ids[: len(order)] = item_ids[keep][order]
    return ids


@pytest.fixture(scope="module")
def catalogue():
    """500 items and 80 users; whole numbers, so that scores are exact and often equal."""
    draw = np.random.default_rng(3)
    item_ids = draw.permutation(500) * 3
    vectors = draw.integers(-2, 3, (500, 4)).astype(np.float32)
    users = np.arange(80)
    pairs = [(user, item) for user in users for item in draw.choice(item_ids, user * 6)]
    queries = draw.integers(-2, 3, (80, 4)).astype(np.float32)
    return item_ids, vectors, users, np.array(pairs), queries


@pytest.mark.parametrize("at_once", [80, 7, 1])
@pytest.mark.parametrize("threads", [1, 3])
def test_equals_a_full_sort_ties_by_id(at_once, threads, catalogue, tmp_path, monkeypatch):
    item_ids, vectors, users, pairs, queries = catalogue
    monkeypatch.setattr(top_k, "MAX_SCORES", 0)
    monkeypatch.setattr(top_k, "MIN_ROWS", at_once)
    monkeypatch.setattr(top_k, "MIN_SHARE", 9)
    seen = SeenItems.from_pairs(*pairs.T).of(users)
    step = make_step(tmp_path, item_ids, vectors, seen, threads)
    draw = np.random.default_rng(4)
    k, hide = draw.choice([1, 10, 33, 600], 80), draw.random(80) < 0.8
    for ks in (k, np.full(80, 20)):
        items, best = step.best(queries, users, {"k": ks, "filter_seen": hide})
        assert items.shape == (80, ks.max())
        for row in users:
            hidden = pairs[pairs[:, 0] == row, 1] if hide[row] else []
            scores = vectors @ queries[row]
            expected = full_sort(item_ids, scores, hidden, ks[row])
            np.testing.assert_array_equal(items[row, : ks[row]], expected)
            assert (items[row, ks[row] :] == -1).all()
            own = dict(zip(item_ids.tolist(), scores.tolist(), strict=True)) | {-1: -np.inf}
            assert best[row].tolist() == [own[item] for item in items[row].tolist()]


@pytest.mark.parametrize("at_once", [80, 7])
def test_only_allowed_items_are_selected(at_once, catalogue, tmp_path, monkeypatch):
    item_ids, vectors, users, pairs, queries = catalogue
    monkeypatch.setattr(top_k, "MAX_SCORES", 0)
    monkeypatch.setattr(top_k, "MIN_ROWS", at_once)
    monkeypatch.setattr(top_k, "MIN_SHARE", 9)
    draw = np.random.default_rng(5)
    years = draw.integers(1980, 1990, 500)
    columns = item_columns(pa.table({"year": years[np.argsort(item_ids)]}), ["year"])
    seen = SeenItems.from_pairs(*pairs.T).of(users)
    step = make_step(tmp_path, item_ids, vectors, seen, threads=3, columns=columns)
    one = {"k": np.full(80, 20), "where": np.full(80, '{"year": 1985}', object)}
    mixed = {
        "k": draw.choice([1, 10, 33, 600], 80),
        "where": draw.choice(['{"year": 1985}', '{"year": {"$gte": 1986}}', "", "{}"], 80),
        "allow": [draw.choice(1500, size, False) for size in draw.integers(0, 900, 80)],
        "allows": draw.random(80) < 0.5,
        "exclude": [draw.choice(item_ids, size, False) for size in draw.integers(0, 90, 80)],
    }
    hide = draw.random(80) < 0.8
    holds = {
        '{"year": 1985}': years == 1985,
        '{"year": {"$gte": 1986}}': years >= 1986,
        "": np.ones(500, bool),
        "{}": np.ones(500, bool),
    }
    for asked in (one, mixed):
        table = {"k": asked["k"], "filter_seen": hide, "where": asked["where"].astype(object)}
        if asked is mixed:
            allow = [
                row if allows else row[:0]
                for row, allows in zip(mixed["allow"], mixed["allows"], strict=True)
            ]
            table |= listed("allow_item_ids", allow, np.where(mixed["allows"], VALUE, ABSENT))
            table |= listed("exclude_item_ids", mixed["exclude"], np.full(80, VALUE))
        items, best = step.best(queries, users, table)
        for row in users:
            hidden = [pairs[pairs[:, 0] == row, 1] if hide[row] else []]
            hidden.append(item_ids[~holds[asked["where"][row]]])
            if asked is mixed:
                hidden.append(mixed["exclude"][row])
                if mixed["allows"][row]:
                    hidden.append(np.setdiff1d(item_ids, mixed["allow"][row]))
            scores, k = vectors @ queries[row], asked["k"][row]
            expected = full_sort(item_ids, scores, np.concatenate(hidden), k)
            np.testing.assert_array_equal(items[row, :k], expected)
            own = dict(zip(item_ids.tolist(), scores.tolist(), strict=True)) | {-1: -np.inf}
            assert best[row].tolist() == [own[item] for item in items[row].tolist()]


def listed(name, rows, states):
    """The columns of an input that lists items."""
    counts = np.array([len(row) for row in rows])
    return {
        name: np.concatenate(rows),
        count_of(name): counts,
        state_of(name): states.astype(np.int8),
    }


def test_counts_what_it_hides(catalogue, tmp_path):
    item_ids, vectors, users, pairs, queries = catalogue
    step = make_step(tmp_path, item_ids, vectors, SeenItems.from_pairs(*pairs.T).of(users))
    step.best(queries, users, {"k": np.full(80, 5), "filter_seen": users < 3})
    assert step.items_hidden == len(np.unique(pairs[pairs[:, 0] < 3], axis=0))


def test_items_of_a_requests_history_are_hidden_beside_the_seen_ones(tmp_path):
    seen = SeenItems.from_pairs([1, 1], [10, 30]).of(np.array([1]))
    item_ids, vectors = np.array([10, 20, 30, 40]), np.array([[1], [2], [3], [4]], np.float32)
    step = make_step(tmp_path, item_ids, vectors, seen, history="liked")
    rows = np.array([0, 1, 0, 1, 0])  # the second one: a user whom the table lacks
    table = {
        "k": np.full(5, 4),
        "filter_seen": np.array([True, True, False, True, True]),
        "liked": np.array([40, 10, 99, 20, 40, 20, 40, 40]),
        "liked__count": np.array([2, 2, 3, 0, 1]),
    }
    items, _ = step.best(np.ones((5, 1), np.float32), rows, table)
    assert items.tolist() == [
        [20, -1, -1, -1],
        [40, 30, 10, -1],
        [40, 30, 20, 10],
        [40, 30, 20, 10],
        [20, -1, -1, -1],
    ]
    assert step.items_hidden == 3 + 1 + 0 + 0 + 3


def test_equal_scores_rank_by_item_id_when_seen_ones_are_filtered(tmp_path):
    from twotower.serving.operators.top_k import FaissTopK
    from twotower.serving.runtime.index import build_index
    from twotower.serving.runtime.operators.top_k import FaissTopK as Compiled
    from twotower.serving.seen import SeenItems

    ids = np.array([9, 4, 7, 1, 3, 8])
    build_index(ids, np.ones((6, 2), np.float32), tmp_path / "index", "ab")
    names = {"row": "row", "vector": "vector", "item_id": "item", "towers_sha256": "ab"}
    (tmp_path / "compiled").mkdir()
    seen = SeenItems.from_pairs([5, 5], [3, 8]).of(np.array([5, 6]))
    operator = FaissTopK(tmp_path / "index", seen, history=None, **names)
    entry = operator.compile(tmp_path / "compiled", None)
    items, _ = Compiled(tmp_path / "compiled", entry, threads=1).best(
        np.ones((2, 2), np.float32),
        np.array([0, 1]),
        {"k": np.array([3, 6]), "filter_seen": np.array([True, True])},
    )
    assert items.tolist() == [[1, 4, 7, -1, -1, -1], [1, 3, 4, 7, 8, 9]]


def similar_table(baskets, k):
    values = np.array([item for basket in baskets for item in basket], np.int64)
    counts = np.array([len(basket) for basket in baskets])
    return {
        "k": np.full(len(baskets), k),
        "similar_to": values,
        count_of("similar_to"): counts,
        state_of("similar_to"): np.full(len(baskets), VALUE, np.int8),
    }


def test_a_cluster_is_found_whatever_the_lengths(tmp_path):
    draw = np.random.default_rng(3)
    centres = np.eye(4)[np.arange(20) % 4]
    vectors = (centres + draw.normal(0, 0.05, (20, 4))) * draw.uniform(0.1, 9, (20, 1))
    ids, nobody = np.arange(20) * 10, SeenItems.from_pairs([], []).of(np.zeros(0, np.int64))
    step = make_step(tmp_path, ids, vectors.astype(np.float32), nobody)
    (found, _), (scores, _) = step.similar(similar_table([[20], [20, 60]], 6))
    assert set(found[:4]) == {60, 100, 140, 180}, "the same remainder of 4"
    cosines = vectors @ vectors[2] / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vectors[2])
    expected = [int(place) for place in np.argsort(-cosines) if place != 2][:6]
    assert found.tolist() == ids[expected].tolist()
    np.testing.assert_allclose(scores, cosines[expected], atol=1e-6)


def test_a_zero_vector_is_similar_to_nothing(tmp_path):
    vectors = np.array([[1, 0], [0, 0], [1, 1]], np.float32)
    nobody = SeenItems.from_pairs([], []).of(np.zeros(0, np.int64))
    step = make_step(tmp_path, np.array([1, 2, 3]), vectors, nobody)
    items, scores = step.similar(similar_table([[1], [2], [9], []], 3))
    assert items.tolist() == [[3, 2, -1], [1, 3, -1], [-1] * 3, [-1] * 3]
    expected = [[0.5**0.5, 0, -np.inf], [0, 0, -np.inf], [-np.inf] * 3, [-np.inf] * 3]
    np.testing.assert_allclose(scores, expected, atol=1e-7)
