"""Head, middle and tail, and the popularity of what is recommended, against hand-made answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from tests.models.conftest import Table, matrix
from twotower.models.errors import ModelError
from twotower.models.evaluation.baselines import Popularity, Random
from twotower.models.evaluation.popularity import percentiles, popularity_metrics, thirds


@pytest.mark.parametrize(
    "counts, expected",
    [
        # 9 interactions, thirds begin at 0, 3 and 6; the items begin at 0, 4, 6, 7, 8, 9.
        ([4, 2, 1, 1, 1, 0], [0, 1, 2, 2, 2, 2]),
        ([0, 1, 1, 1, 2, 4], [2, 2, 2, 2, 1, 0]),
        ([1, 1, 1], [0, 1, 2]),  # equal ones by row
        ([9, 1], [0, 2]),  # the head has more than a third when one item alone does
        ([5], [0]),
    ],
)
def test_an_item_is_in_the_third_where_it_begins(counts, expected):
    np.testing.assert_array_equal(thirds(np.array(counts)), expected)


def test_no_interactions_have_no_thirds():
    with pytest.raises(ModelError, match="train interactions; there are none"):
        thirds(np.zeros(3, dtype=int))


def test_percentiles_by_hand():
    shares = percentiles(np.array([7, 1, 1, 3, 100]), np.array([1, 1, 1, 1, 0], dtype=bool))
    # Of four candidates the two rarest share the places 0 and 1, then 2, then 3.
    np.testing.assert_allclose(shares, [3.5 / 4, 1 / 4, 1 / 4, 2.5 / 4, np.nan])
    assert np.nanmean(shares) == pytest.approx(0.5)


def test_recall_by_third_and_popularity_by_hand():
    # Item 0 is the head (4 of 9), 1 the middle (2), 2 to 5 the tail (1, 1, 1, 0).
    train = matrix([{0, 1, 2}, {0, 1, 3}, {0, 4}, {0}], 6)
    # User 0 (seen 0): 3 5 | 4 1 2; user 1 (nothing seen): 0 2 | 1 3 4 5; user 2 wants nothing.
    scores = Table([[9, 2, 1, 5, 3, 4], [6, 4, 5, 3, 2, 1], [1] * 6, [1] * 6])
    relevant = matrix([{3, 4}, {0, 1, 2}, set(), set()], 6)
    seen = matrix([{0}, set(), set(), set()], 6)
    values = popularity_metrics(scores, relevant, seen, train, k=2)
    assert values == pytest.approx(
        {
            "head_recall@2": 1,  # only user 1 has one: item 0, found
            "middle_recall@2": 0,  # only user 1: item 1, not found
            "tail_recall@2": 3 / 4,  # user 0: 3 of {3, 4}; user 1: 2 of {2}
            # 3 and 2 share places 1 to 3 of six (0.4167 in the middle), 5 is last, 0 is first.
            "popularity@2": (2.5 / 6 + 0.5 / 6 + 5.5 / 6 + 2.5 / 6) / 4,
        }
    )


def test_a_third_that_nobody_wants_is_left_out_and_short_lists_count_what_they_have():
    train = matrix([{0, 1, 2}, {0}], 3)
    relevant, seen = matrix([set(), {2}], 3), matrix([{0, 1, 2}, {0}], 3)
    values = popularity_metrics(Table(np.ones((2, 3))), relevant, seen, train, k=10)
    assert set(values) == {"tail_recall@10", "popularity@10"}
    assert values["tail_recall@10"] == 1
    assert values["popularity@10"] == pytest.approx(1 / 3)  # items 1 and 2, equally rare


def test_random_is_at_a_half_and_popularity_near_the_top():
    rng = np.random.default_rng(0)
    train = csr_matrix(rng.random((300, 200)) < np.geomspace(0.5, 0.01, 200))
    relevant = csr_matrix((rng.random(train.shape) < 0.05) & ~train.toarray())
    popularity = {}
    for name, model in (("random", Random(0)), ("popularity", Popularity())):
        one = popularity_metrics(model.fit(train), relevant, train, train, 10, batch_size=7)
        assert one == pytest.approx(popularity_metrics(model, relevant, train, train, 10))
        popularity[name] = one["popularity@10"]
    # A little below a half: what a user has seen is left out, and that is what is popular.
    assert popularity["random"] == pytest.approx(0.46, abs=0.04)
    assert popularity["popularity"] > 0.8
