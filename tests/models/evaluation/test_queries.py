"""Queries: a user in several contexts, and metrics averaged per user."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.models.conftest import Table, matrix
from twotower.models.evaluation.baselines import Popularity, Random
from twotower.models.evaluation.metrics import evaluate
from twotower.models.evaluation.queries import Queries, QueryScorer

PAIRS = pd.DataFrame(
    {"user_row": [1, 0, 1, 1, 2], "context_row": [7, 3, 7, 4, 7], "item_row": [0, 1, 2, 3, 3]}
)


def test_pairs_are_grouped_by_user_and_context():
    queries = Queries.of(PAIRS, {}, n_items=4)
    assert queries.users.tolist() == [0, 1, 1, 2] and queries.contexts.tolist() == [3, 4, 7, 7]
    assert queries.relevant.toarray().astype(int).tolist() == [
        [0, 1, 0, 0],
        [0, 0, 0, 1],
        [1, 0, 1, 0],
        [0, 0, 0, 1],
    ]
    some = queries.of_users(np.array([1, 2]))
    assert some.users.tolist() == [0, 0, 1] and some.contexts.tolist() == [4, 7, 7]
    assert (some.relevant != queries.relevant[1:]).nnz == 0


def test_a_user_with_many_queries_weighs_as_one():
    # Both queries of user 0 find their item first, that of user 1 does not.
    scores = [[3, 2, 1], [1, 3, 2], [3, 2, 1]]
    relevant, seen = matrix([{0}, {1}, {2}], 3), matrix([set(), set(), set()], 3)
    of_users: list[tuple] = []
    found = evaluate(
        Table(scores),
        relevant,
        seen,
        [1],
        user_of=np.array([0, 0, 1]),
        on_users=lambda users, values: of_users.append((users, values[:, 0, 0])),
    )
    assert found.values["hit@1"] == 0.5 and found.users == 2
    assert [each.tolist() for each in of_users[0]] == [[0, 1], [1.0, 0.0]] and len(of_users) == 1
    alone = evaluate(Table(scores), relevant, seen, [1])
    assert alone.values["hit@1"] == pytest.approx(2 / 3) and alone.users == 3


@pytest.mark.parametrize("baseline", [Popularity(), Random(3)])
def test_a_baseline_answers_every_query_as_its_user(baseline):
    train = matrix([{0, 1}, {1}, {1, 2}], 4)
    queries = Queries.of(PAIRS, {}, n_items=4)
    fitted = baseline.fit(train)
    by_query = queries.by_user(fitted)
    rows = np.array([3, 0, 2])
    if hasattr(fitted, "score"):
        found, expected = by_query.score(rows), fitted.score(queries.users[rows])
    else:
        seen, every = train[queries.users[rows]], np.ones(4, bool)
        found = by_query.rank(rows, seen, 2, every)
        expected = fitted.rank(queries.users[rows], seen, 2, every)
    np.testing.assert_array_equal(found, expected)


def test_a_scorer_of_queries_stays_one():
    queries = Queries.of(PAIRS, {}, n_items=4)
    scorer = QueryScorer(np.zeros((4, 2)), np.zeros((4, 2)))
    assert queries.by_user(scorer) is scorer
