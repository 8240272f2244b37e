"""Selection by an approximate index: what is excluded, and what is exact."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from tests.serving.clusters import clustered
from twotower.serving.index.choice import Wanted, choose_index, write_choice
from twotower.serving.item_columns import item_columns
from twotower.serving.operators.top_k import FaissTopK
from twotower.serving.runtime.contract import VALUE, count_of, state_of
from twotower.serving.runtime.index import ApproximateIndex
from twotower.serving.runtime.index.kinds import KINDS
from twotower.serving.runtime.operators import approximate, top_k
from twotower.serving.seen import SeenItems

ITEMS, USERS = 3_000, 60
NAMES = {"row": "row", "vector": "vector", "item_id": "item", "towers_sha256": "ab"}


class Served(NamedTuple):
    step: top_k.FaissTopK
    queries: np.ndarray  # float32 [USERS, 16]
    scores: np.ndarray  # of the vectors that the index holds, float32 [USERS, ITEMS]
    hidden: list  # per user, positions of the seen items, the best ones among them
    years: np.ndarray  # int [ITEMS]; 1900 is of few items, 2000 of most

    @property
    def index(self) -> ApproximateIndex:
        return self.step.index

    def ask(self, k=10, filter_seen=True, **columns):
        """The positions of the answer [n, k], -1 at the end, and the scores."""
        table = {"k": np.full(USERS, k), "filter_seen": np.full(USERS, filter_seen), **columns}
        items, scores = self.step.best(self.queries, np.arange(USERS), table)
        return np.where(items < 0, -1, np.searchsorted(self.index.item_ids, items)), scores

    def exact(self, k, allowed):
        """The k best positions of the items that each user allows, bool [USERS, ITEMS]."""
        order = np.argsort(np.where(allowed, -self.scores, np.inf), axis=1, kind="stable")[:, :k]
        return np.where(np.take_along_axis(allowed, order, axis=1), order, -1)


@pytest.fixture(scope="module", params=KINDS)
def served(request, tmp_path_factory) -> Served:
    folder = tmp_path_factory.mktemp(request.param)
    vectors, queries = clustered(ITEMS, 16, 200)
    item_ids, draw = np.arange(ITEMS) * 2 + 5, np.random.default_rng(1)
    recall = 0.4 if request.param == "ivf_pq" else 0.85
    choice = choose_index(vectors, queries, Wanted(request.param, recall), lambda *_, **__: None)
    write_choice(choice, item_ids, vectors, folder / "index", "ab")
    queries = queries[:USERS]
    best = np.argsort(-(queries @ vectors.T), axis=1)
    # Users have seen what suits them: none, a few, or all of the best 2,500.
    hidden = [best[user, : (0, 5, 60, 2_500)[user % 4]] for user in range(USERS)]
    pairs = [(user, item_ids[item]) for user, items in enumerate(hidden) for item in items]
    years = draw.choice([1900, 1950, 2000], ITEMS, p=[0.01, 0.2, 0.79])
    operator = FaissTopK(
        folder / "index",
        SeenItems.from_pairs(*np.array(pairs).T).of(np.arange(USERS)),
        history=None,
        columns=item_columns(pa.table({"year": years}), ["year"]),
        **NAMES,
    )
    (folder / "compiled").mkdir()
    entry = operator.compile(folder / "compiled", None)
    assert not list((folder / "compiled").glob("*.onnx")), "the exact search is not exported"
    step = top_k.FaissTopK(folder / "compiled", entry, threads=2)
    return Served(step, queries, queries @ np.asarray(step.index.vectors).T, hidden, years)


@pytest.fixture(autouse=True)
def all_ways(monkeypatch):
    """A small catalogue takes every way: the index, a wider search, and all allowed items."""
    monkeypatch.setattr(approximate, "FEW", 100)


def is_seen(served):
    seen = np.zeros((USERS, ITEMS), bool)
    for row, items in zip(seen, served.hidden, strict=True):
        row[items] = True
    return seen


def test_without_exclusion_it_is_the_answer_of_the_index(served):
    found, scores = served.ask(k=16, filter_seen=False)
    expected, positions = served.index.search(served.queries, 16)
    np.testing.assert_array_equal(found, positions)
    np.testing.assert_array_equal(scores, expected)


def test_with_exclusion_it_is_the_rest_of_a_wider_answer(served):
    found, _ = served.ask(k=10)
    few = [user for user in range(USERS) if len(served.hidden[user]) == 5]
    _, wider = served.index.search(served.queries[few], 16)
    for user, positions in zip(few, wider, strict=True):
        rest = positions[~np.isin(positions, served.hidden[user])]
        assert found[user].tolist() == rest[:10].tolist()


def test_seen_items_are_in_no_answer_and_answers_are_full(served):
    found, scores = served.ask(k=10)
    seen = is_seen(served)
    assert (found >= 0).all() and np.isfinite(scores).all()
    assert not np.take_along_axis(seen, found, axis=1).any()
    np.testing.assert_allclose(scores, np.take_along_axis(served.scores, found, 1), atol=1e-5)
    exact = served.exact(10, ~seen)
    much = [user for user in range(USERS) if len(served.hidden[user]) == 2_500]
    np.testing.assert_array_equal(found[much], exact[much])  # found by scoring all that are left


def test_few_allowed_items_are_answered_exactly(served):
    where = np.full(USERS, '{"year": 1900}', object)
    found, _ = served.ask(k=10, where=where)
    allowed = (served.years == 1900) & ~is_seen(served)
    np.testing.assert_array_equal(found, served.exact(10, allowed))
    assert (found < 0).any(), "some have fewer than ten left"


def test_a_listed_item_is_answered_exactly(served):
    draw = np.random.default_rng(5)
    lists = [np.sort(draw.choice(ITEMS, size, False)) for size in draw.integers(0, 200, USERS)]
    found, _ = served.ask(k=10, **listed("allow_item_ids", served, lists))
    allowed = np.zeros((USERS, ITEMS), bool)
    for row, items in zip(allowed, lists, strict=True):
        row[items] = True
    np.testing.assert_array_equal(found, served.exact(10, allowed & ~is_seen(served)))


@pytest.mark.parametrize(("year", "part"), [(1950, 0.2), (2000, 0.79)])
def test_a_filter_keeps_the_recall(year, part, served):
    assert (served.years == year).mean() == pytest.approx(part, abs=0.03)
    where = np.full(USERS, f'{{"year": {year}}}', object)
    found, _ = served.ask(k=10, filter_seen=False, where=where)
    allowed = np.tile(served.years == year, (USERS, 1))
    assert (found >= 0).all() and np.take_along_axis(allowed, found, axis=1).all()
    exact = served.exact(10, allowed)
    pairs = zip(found, exact, strict=True)
    assert np.mean([np.isin(right, own).mean() for own, right in pairs]) >= 0.85


def test_excluded_and_denied_items_are_in_no_answer(served):
    first, _ = served.ask(k=10, filter_seen=False)
    excluded = listed("exclude_item_ids", served, [np.sort(row) for row in first])
    found, _ = served.ask(k=10, filter_seen=False, **excluded)
    for own, before in zip(found, first, strict=True):
        assert not np.isin(own, before).any() and (own >= 0).all()
    denied = first[::2].ravel()
    served.step.deny(served.index.item_ids[denied])
    try:
        found, _ = served.ask(k=10, filter_seen=False)
    finally:
        served.step.deny(np.zeros(0, np.int64))
    assert not np.isin(found, denied).any() and (found >= 0).all()


def test_a_batch_answers_like_its_rows(served):
    found, scores = served.ask(k=10)
    for user in range(USERS):
        table = {"k": np.array([10]), "filter_seen": np.array([True])}
        items, alone = served.step.best(served.queries[[user]], np.array([user]), table)
        np.testing.assert_array_equal(served.index.item_ids[found[user]], items[0])
        np.testing.assert_array_equal(scores[user], alone[0])


def test_all_items_can_be_asked_for(served):
    found, _ = served.ask(k=ITEMS + 5, filter_seen=False)
    assert (np.sort(found[:, :ITEMS], axis=1) == np.arange(ITEMS)).all()
    assert (found[:, ITEMS:] == -1).all()


def test_similar_items_are_near(served):
    index = served.index
    table = {
        "k": np.full(3, 5),
        **listed("similar_to", served, [np.array([4]), np.array([9, 12]), np.array([], int)]),
    }
    items, scores = served.step.similar(table)
    vectors = np.asarray(index.vectors)
    asked = [[4], [9, 12]]
    for row, own in enumerate(asked):
        total = vectors[own].sum(axis=0)
        found = np.searchsorted(index.item_ids, items[row])
        assert not np.isin(found, own).any()
        cosines = vectors @ (total / np.linalg.norm(total))
        np.testing.assert_allclose(scores[row], cosines[found], atol=0.02)
        assert scores[row, -1] >= np.sort(cosines)[-40], "among the nearest"
    assert items[2].tolist() == [-1] * 5


def test_similar_items_of_different_lengths_are_exact(tmp_path):
    vectors, queries = clustered(2_000, 16, 100)
    vectors *= np.random.default_rng(2).uniform(0.1, 5, (2_000, 1)).astype(np.float32)
    choice = choose_index(vectors, queries, Wanted("ivf_flat", 0.5), lambda *_, **__: None)
    write_choice(choice, np.arange(2_000), vectors, tmp_path, "ab")
    nobody = SeenItems.from_pairs([], []).of(np.zeros(0, np.int64))
    operator = FaissTopK(tmp_path, nobody, history=None, **NAMES)
    (tmp_path / "compiled").mkdir()
    entry = operator.compile(tmp_path / "compiled", None)
    step = top_k.FaissTopK(tmp_path / "compiled", entry, 1)
    asked = {
        "similar_to": np.array([7]),
        count_of("similar_to"): np.array([1]),
        state_of("similar_to"): np.full(1, VALUE, np.int8),
    }
    items, scores = step.similar({"k": np.array([8]), **asked})
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = units @ units[7]
    expected = [item for item in np.argsort(-cosines) if item != 7][:8]
    assert items[0].tolist() == expected
    np.testing.assert_allclose(scores[0], cosines[expected], atol=1e-5)


def test_a_diverse_answer_spreads(served):
    plain, _ = served.ask(k=10, filter_seen=False, diversity=np.zeros(USERS), **by_vectors())
    diverse, _ = served.ask(k=10, filter_seen=False, diversity=np.full(USERS, 0.7), **by_vectors())
    units = np.asarray(served.index.vectors)

    def closeness(positions):
        vectors = units[positions]
        return np.einsum("nid,njd->nij", vectors, vectors).mean()

    assert closeness(diverse) < closeness(plain) - 0.01


def by_vectors():
    return {"diversity_by": np.full(USERS, "", object)}


def listed(name, served, rows):
    """The columns of an input that lists items, given as positions."""
    counts = np.array([len(row) for row in rows])
    return {
        name: served.index.item_ids[np.concatenate(rows)],
        count_of(name): counts,
        state_of(name): np.full(len(rows), VALUE, np.int8),
    }
