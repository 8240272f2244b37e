"""The blocked ranking by inner product compared with a dense matrix that is sorted in full."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from tests.models.conftest import Table, matrix
from twotower.models.errors import ModelError
from twotower.models.evaluation import products
from twotower.models.evaluation.metrics import evaluate
from twotower.models.evaluation.popularity import popularity_metrics
from twotower.models.evaluation.products import ItemVectors
from twotower.models.evaluation.queries import Queries, QueryScorer, RankerOfUsers
from twotower.models.two_tower import TowerScorer

USERS, ITEMS, DIM = 50, 230, 6


@pytest.fixture(params=range(3))
def case(request):
    """Whole numbers, so that every order of summing gives the same scores, and many are equal."""
    rng = np.random.default_rng(request.param)
    users, items = (rng.integers(-2, 3, (n, DIM)).astype(np.float32) for n in (USERS, ITEMS))
    seen = rng.random((USERS, ITEMS)) < rng.choice([0, 0.1, 0.97], (USERS, 1))
    relevant = (rng.random(seen.shape) < rng.choice([0, 0.05, 0.5], (USERS, 1))) & ~seen
    candidates = np.ones(ITEMS, bool) if request.param == 0 else rng.random(ITEMS) < 0.6
    return users, items, csr_matrix(relevant), csr_matrix(seen), candidates


def sorted_fully(scores, seen, k, candidates):
    """The definition, one user at a time."""
    ranked = np.full((len(scores), k), -1)
    for row, own in enumerate(scores):
        allowed = np.flatnonzero(candidates & ~seen[row].toarray()[0])
        best = allowed[np.argsort(-own[allowed], kind="stable")[:k]]
        ranked[row, : len(best)] = best
    return ranked


@pytest.fixture(params=[1, 700, 1 << 24])
def block(request, monkeypatch):
    """Blocks of 1 item, of 14 and of all."""
    monkeypatch.setattr(products, "MAX_SCORES", request.param)


@pytest.mark.parametrize("k", [1, 10, 300])
def test_blocks_rank_like_a_full_sort(case, block, k):
    users, items, _, seen, candidates = case
    rows = np.arange(USERS)[::-1]
    found = TowerScorer(users, items).rank(rows, seen[rows], k, candidates)
    expected = sorted_fully(users @ items.T, seen, k, candidates)[rows]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int64


def test_the_metrics_are_those_of_dense_scores(case, block):
    users, items, relevant, seen, candidates = case
    given = (relevant, seen, [1, 5, 20, 100], candidates)
    dense, kept = Table(users @ items.T), {}

    def on_users(name):
        return lambda rows, values: kept.setdefault(name, []).append((rows, values))

    expected = evaluate(dense, *given, batch_size=64, on_users=on_users("dense"))
    towers = TowerScorer(users, items)
    assert evaluate(towers, *given, batch_size=64, on_users=on_users("blocks")) == expected
    assert evaluate(towers, *given, batch_size=7) == expected
    for found, wanted in zip(kept["blocks"][0], kept["dense"][0], strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_other_metrics_and_repeats_are_those_of_dense_scores(case, block):
    users, items, relevant, seen, candidates = case
    dense, towers = Table(users @ items.T), TowerScorer(users, items)
    thirds = {"relevant": relevant, "seen": seen, "train": seen, "k": 9, "candidates": candidates}
    assert popularity_metrics(towers, **thirds) == popularity_metrics(dense, **thirds)
    # A tenth of the seen items are to be found, too.
    again = seen.multiply(csr_matrix(np.random.default_rng(1).random(seen.shape) < 0.1))
    repeated = csr_matrix(relevant + again)
    found, expected = (
        evaluate(model, repeated, seen, [5, 20], candidates, repeats=True)
        for model in (towers, dense)
    )
    assert found == expected


def test_queries_with_contexts_are_ranked_alike(case, block):
    users, items, relevant, seen, candidates = case
    query_users = np.sort(np.random.default_rng(4).integers(0, USERS, 80))
    vectors = users[query_users] + np.arange(80)[:, None] % 2  # the context's part
    given = {
        "relevant": relevant[query_users],
        "seen": seen[query_users],
        "ks": [5, 20],
        "candidates": candidates,
        "user_of": query_users,
    }
    expected = evaluate(Table(vectors @ items.T), **given)
    assert evaluate(QueryScorer(vectors, items), **given) == expected
    queries = Queries(query_users, np.arange(80) % 2, relevant[query_users], {})
    plain = queries.by_user(TowerScorer(users, items))
    assert isinstance(plain, RankerOfUsers)
    dense = queries.by_user(Table(users @ items.T))
    assert evaluate(plain, **given) == evaluate(dense, **given)


def test_other_candidates_replace_the_first_ones():
    towers = TowerScorer(np.ones((1, 1), np.float32), np.arange(4, dtype=np.float32)[:, None])
    nothing, allowed = csr_matrix((1, 4), dtype=bool), np.array([True, True, True, False])
    assert towers.rank(np.array([0]), nothing, 2, allowed).tolist() == [[2, 1]]
    allowed[2] = False  # the same array, with other values
    assert towers.rank(np.array([0]), nothing, 2, allowed).tolist() == [[1, 0]]


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_named(side, value):
    users, items = np.ones((5, 2), np.float32), np.ones((4, 2), np.float32)
    (users if side == "user" else items)[3, 1] = value
    relevant = matrix([set(), {1}, {1}, {1}, {1}], 4)
    with pytest.raises(ModelError, match=f"vector of {side} row 3 is not finite.*diverge"):
        evaluate(TowerScorer(users, items), relevant, matrix([set()] * 5, 4), [1])


def test_products_beyond_float32_are_refused():
    vectors = np.full((2, 2), 2e19, np.float32)
    with pytest.raises(ModelError, match=r"2e\+19, whose products are beyond float32"):
        evaluate(TowerScorer(vectors, -vectors), matrix([{0}] * 2, 2), matrix([set()] * 2, 2), [1])
    fine = ItemVectors(vectors / 10, np.ones(2, bool))
    assert fine.best(np.arange(2), vectors / 10, csr_matrix((2, 2)), 1).tolist() == [[0], [0]]


MEASURE = """
import resource, sys
import numpy as np
from scipy.sparse import csr_matrix
from twotower.models.evaluation.metrics import evaluate
from twotower.models.two_tower import TowerScorer

USERS, ITEMS = 2000, 300_000
random = np.random.default_rng(0)
vectors = [random.standard_normal((n, 16), dtype=np.float32) for n in (USERS, ITEMS)]
items = random.integers(0, ITEMS, (2, USERS))
relevant, seen = (
    csr_matrix((np.ones(USERS, bool), (np.arange(USERS), each)), (USERS, ITEMS)) for each in items
)
scorer = TowerScorer(*vectors)
small = evaluate(scorer, relevant[:9], seen[:9], [10])  # what the libraries take once
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
evaluate(scorer, relevant, seen, [10, 100])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_a_large_catalogue_takes_little_memory():
    """The scores of all users would take 2,400 MB, those of one batch 1,229 MB."""
    command = [sys.executable, "-c", MEASURE]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    assert float(done.stdout) < 150
