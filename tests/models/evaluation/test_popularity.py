"""Head, middle and tail, and the popularity of recommendations, compared with known answers."""

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
        # 9 interactions: thirds begin at 0, 3 and 6; the items begin at 0, 4, 6, 7, 8 and 9.
        ([4, 2, 1, 1, 1, 0], [0, 1, 2, 2, 2, 2]),
        ([0, 1, 1, 1, 2, 4], [2, 2, 2, 2, 1, 0]),
        ([1, 1, 1], [0, 1, 2]),  # equally popular items by row
        ([9, 1], [0, 2]),  # the head is larger than a third if a single item is
        ([5], [0]),
    ],
)
def test_an_item_is_in_the_third_of_its_first_interaction(counts, expected):
    np.testing.assert_array_equal(thirds(np.array(counts)), expected)


def test_thirds_without_interactions_are_refused():
    with pytest.raises(ModelError, match="train interactions; there are none"):
        thirds(np.zeros(3, dtype=int))


def test_percentiles_by_hand():
    shares = percentiles(np.array([7, 1, 1, 3, 100]), np.array([1, 1, 1, 1, 0], dtype=bool))
    # The two rarest of four candidates share ranks 0 and 1; the others have ranks 2 and 3.
    np.testing.assert_allclose(shares, [3.5 / 4, 1 / 4, 1 / 4, 2.5 / 4, np.nan])
    assert np.nanmean(shares) == pytest.approx(0.5)


def test_recall_by_third_and_popularity_by_hand():
    # Item 0 is the head (4 of 9), 1 the middle (2), 2 to 5 the tail (1, 1, 1, 0).
    train = matrix([{0, 1, 2}, {0, 1, 3}, {0, 4}, {0}], 6)
    # User 0 (seen 0): 3 5 | 4 1 2; user 1 (no seen items): 0 2 | 1 3 4 5; user 2 is left out.
    scores = Table([[9, 2, 1, 5, 3, 4], [6, 4, 5, 3, 2, 1], [1] * 6, [1] * 6])
    relevant = matrix([{3, 4}, {0, 1, 2}, set(), set()], 6)
    seen = matrix([{0}, set(), set(), set()], 6)
    values = popularity_metrics(scores, relevant, seen, train, k=2)
    assert values == pytest.approx(
        {
            "head_recall@2": 1,  # only user 1 has a relevant one: item 0, found
            "middle_recall@2": 0,  # only user 1 has one: item 1, not found
            "tail_recall@2": 3 / 4,  # user 0: 3 of {3, 4}; user 1: 2 of {2}
            # Percentiles: items 2, 3 and 4 share 2.5 / 6, item 5 has 0.5 / 6, item 0 has 5.5 / 6.
            "popularity@2": (2.5 / 6 + 0.5 / 6 + 5.5 / 6 + 2.5 / 6) / 4,
        }
    )


def test_a_third_without_relevant_items_is_left_out_and_lists_may_be_short():
    train = matrix([{0, 1, 2}, {0}], 3)
    relevant, seen = matrix([set(), {2}], 3), matrix([{0, 1, 2}, {0}], 3)
    values = popularity_metrics(Table(np.ones((2, 3))), relevant, seen, train, k=10)
    assert set(values) == {"tail_recall@10", "popularity@10"}
    assert values["tail_recall@10"] == 1
    assert values["popularity@10"] == pytest.approx(1 / 3)  # items 1 and 2, equally rare


def test_random_has_popularity_one_half_and_popularity_nearly_one():
    rng = np.random.default_rng(0)
    train = csr_matrix(rng.random((300, 200)) < np.geomspace(0.5, 0.01, 200))
    relevant = csr_matrix((rng.random(train.shape) < 0.05) & ~train.toarray())
    popularity = {}
    for name, model in (("random", Random(0)), ("popularity", Popularity())):
        one = popularity_metrics(model.fit(train), relevant, train, train, 10, batch_size=7)
        assert one == pytest.approx(popularity_metrics(model, relevant, train, train, 10))
        popularity[name] = one["popularity@10"]
    # A little below 0.5, because the seen items, which are popular ones, are left out.
    assert popularity["random"] == pytest.approx(0.46, abs=0.04)
    assert popularity["popularity"] > 0.8
