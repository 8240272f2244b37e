"""Metrics and rankings compared with hand-computed numbers and a slow, simple reference."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from pydantic import ValidationError
from rich.console import Console
from scipy.sparse import csr_matrix

from tests.models.conftest import Table, matrix
from twotower.models.errors import ModelError
from twotower.models.evaluation import ranking
from twotower.models.evaluation.baselines import Popularity
from twotower.models.evaluation.config import EvaluationConfig, count_valid_users
from twotower.models.evaluation.metrics import METRICS, Metrics, evaluate, metrics_table
from twotower.models.evaluation.ranking import binary, is_relevant


def slow_reference(scores, relevant, seen, ks, candidates):
    """The definitions with Python sets: one user, one cutoff, one rank at a time."""
    n_items = scores.shape[1]
    sums = dict.fromkeys([f"{m}@{k}" for k in ks for m in METRICS], 0.0)
    shown = {k: set() for k in ks}
    n_users = 0
    for user in range(len(scores)):
        wanted, known = set(relevant[user].indices), set(seen[user].indices)
        if not wanted:
            continue
        n_users += 1
        allowed = [
            i
            for i in range(n_items)
            if candidates[i] and i not in known and scores[user, i] > -math.inf
        ]
        ranking = sorted(allowed, key=lambda i: (-scores[user, i], i))
        for k in ks:
            top = ranking[:k]
            shown[k] |= set(top)
            hits = [rank for rank, item in enumerate(top, 1) if item in wanted]
            best = min(len(wanted), k)
            ideal = sum(1 / math.log2(rank + 1) for rank in range(1, best + 1))
            sums[f"recall@{k}"] += len(hits) / len(wanted)
            sums[f"ndcg@{k}"] += sum(1 / math.log2(rank + 1) for rank in hits) / ideal
            sums[f"mrr@{k}"] += 1 / hits[0] if hits else 0
            sums[f"hit@{k}"] += bool(hits)
            sums[f"precision@{k}"] += len(hits) / k
            sums[f"map@{k}"] += sum(n / rank for n, rank in enumerate(hits, 1)) / best
    values = {name: value / n_users for name, value in sums.items()}
    return values | {f"coverage@{k}": len(shown[k]) / candidates.sum() for k in ks}, n_users


def random_case(seed: int, n_users=60, n_items=40):
    """Ties, users who have seen nearly all items, and users without relevant items."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (n_users, n_items)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = -np.inf
    seen = rng.random(scores.shape) < rng.choice([0.1, 0.5, 0.95], (n_users, 1))
    relevant = (rng.random(scores.shape) < rng.choice([0, 0.1, 0.5], (n_users, 1))) & ~seen
    candidates = rng.random(n_items) < 0.8
    return scores, csr_matrix(relevant), csr_matrix(seen), candidates


def test_every_metric_by_hand():
    # User 0 ranks 1 2 3 4 5 (0 is seen), hits at ranks 1, 4, 5; user 1 ranks 5 4 3 2 1 0, hit at
    # rank 3; user 2 has no relevant items and is left out.
    scores = Table([[6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]])
    relevant = matrix([{1, 4, 5}, {3}, set()], 6)
    seen = matrix([{0}, set(), {1}], 6)
    metrics = evaluate(scores, relevant, seen, [2, 4])
    assert metrics.users == 2
    assert metrics.candidates == 6
    assert metrics.values == pytest.approx(
        {
            "recall@2": 1 / 6,  # 1/3 and 0
            "ndcg@2": 0.306574,  # 1 / (1 + 0.63093) and 0
            "mrr@2": 1 / 2,
            "hit@2": 1 / 2,
            "precision@2": 1 / 4,
            "map@2": 1 / 4,  # (1/1) / 2 and 0
            "coverage@2": 4 / 6,  # 1 2 and 5 4
            "recall@4": 5 / 6,  # 2/3 and 1
            "ndcg@4": 0.585693,  # (1 + 0.430677) / (1 + 0.63093 + 0.5) and 0.5
            "mrr@4": 2 / 3,
            "hit@4": 1,
            "precision@4": 3 / 8,
            "map@4": 5 / 12,  # (1/1 + 2/4) / 3 and 1/3
            "coverage@4": 5 / 6,  # all except 0
        },
        abs=1e-6,
    )
    assert metrics.to_dict() == {"users": 2, "candidates": 6, **metrics.values}


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_slow_reference(seed):
    scores, relevant, seen, candidates = random_case(seed)
    ks = [1, 3, 10, 40, 100]  # more than the number of items, too
    expected, users = slow_reference(scores, relevant, seen, ks, candidates)
    metrics = evaluate(Table(scores), relevant, seen, ks, candidates, batch_size=7)
    assert metrics.values == pytest.approx(expected, abs=1e-12)
    assert metrics.users == users


def test_batch_size_changes_nothing():
    scores, relevant, seen, candidates = random_case(9)
    results = [
        evaluate(Table(scores), relevant, seen, [5, 20], candidates, batch_size=size)
        for size in (1, 7, 1000)
    ]
    assert results[0] == results[1] == results[2]


def test_perfect_ranking_scores_one_and_leaves_the_scores_alone():
    _, relevant, seen, _ = random_case(3)
    scores = relevant.toarray().astype(np.float32)
    before = scores.copy()
    values = evaluate(Table(scores), relevant, seen, [40]).values
    for name in ("recall", "ndcg", "mrr", "hit", "map"):
        assert values[f"{name}@40"] == 1
    assert (scores == before).all()


def test_a_user_with_few_candidates_gets_a_short_list():
    # One candidate is left for the only user: it is not a hit, and the only item covered.
    values = evaluate(Table(np.zeros((1, 4))), matrix([{3}], 4), matrix([{0, 1}], 4), [3],
                      candidates=np.array([True, True, True, False])).values  # fmt: skip
    assert values["recall@3"] == 0
    assert values["coverage@3"] == pytest.approx(1 / 3)


def test_stored_zeros_and_duplicates_are_not_interactions():
    plain = matrix([{1}], 3)
    # Item 1 twice, and an explicit zero for item 2, which is therefore not relevant.
    messy = csr_matrix(([1, 1, 0], ([0, 0, 0], [1, 1, 2])), shape=(1, 3))
    seen = matrix([{2}], 3)
    scores = Table(np.array([[3.0, 2.0, 1.0]]))
    assert evaluate(scores, messy, seen, [2]) == evaluate(scores, plain, seen, [2])


class Counting(Table):
    """Records the largest number of scores requested at once."""

    def score(self, users):
        self.largest = max(getattr(self, "largest", 0), len(users) * self.scores.shape[1])
        return super().score(users)


def test_blocks_of_scores_change_nothing_and_stay_small(monkeypatch):
    scores, relevant, seen, candidates = random_case(4)
    whole = evaluate(Table(scores), relevant, seen, [5, 20], candidates)
    monkeypatch.setattr(ranking, "MAX_SCORES", 130)
    counting = Counting(scores)
    assert evaluate(counting, relevant, seen, [5, 20], candidates) == whole
    assert counting.largest == 3 * 40


@pytest.mark.parametrize("baseline", [True, False])
def test_cutoffs_beyond_the_catalogue_need_no_memory(baseline):
    scores, relevant, seen, candidates = random_case(6)
    ks = [5, 39, 40, 500_000]
    if baseline:
        scorer = Popularity().fit(seen)
        counts = np.bincount(binary(seen).indices, minlength=40)
        scores = np.tile(counts.astype(float), (60, 1))
    else:
        scorer = Table(scores)
    tracemalloc.start()
    try:
        found = evaluate(scorer, relevant, seen, ks, candidates)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10e6
    expected, _ = slow_reference(scores, relevant, seen, ks, candidates)
    assert found.values == pytest.approx(expected, abs=1e-12)


def test_a_ranker_gets_smaller_batches_for_long_lists(monkeypatch):
    _, relevant, seen, candidates = random_case(6)
    ranker, batch_sizes = Popularity().fit(seen), []
    whole = evaluate(ranker, relevant, seen, [20], candidates)
    monkeypatch.setattr(ranking, "MAX_SCORES", 130)
    rank = ranker.rank
    ranker.rank = lambda users, *rest: batch_sizes.append(len(users)) or rank(users, *rest)
    assert evaluate(ranker, relevant, seen, [20], candidates) == whole
    assert max(batch_sizes) == 130 // 20


def test_scores_that_may_not_be_written_to_are_copied():
    scores, relevant, seen, candidates = random_case(5)

    class View:
        def score(self, users):
            view = scores[users[0] : users[0] + 1].view()
            view.flags.writeable = False
            return view

    before = scores.copy()
    expected = evaluate(Table(scores), relevant, seen, [5], candidates)
    assert evaluate(View(), relevant, seen, [5], candidates, batch_size=1) == expected
    assert (scores == before).all()


def test_is_relevant_equals_the_dense_matrix():
    rng = np.random.default_rng(2)
    relevant = csr_matrix(rng.random((30, 20)) < rng.choice([0, 0.2, 1], (30, 1)))
    ranked = rng.integers(-1, 20, (30, 8))
    expected = np.take_along_axis(relevant.toarray(), ranked, axis=1) & (ranked >= 0)
    np.testing.assert_array_equal(is_relevant(relevant, ranked), expected)


@pytest.mark.parametrize(
    ("setting", "users", "items", "rows", "expected"),
    [
        (None, 6_000, 3_706, 100_000, 6_000),
        (None, 6_000_000, 10_000, 100, 6_000_000),  # a small catalogue: always all users
        (None, 1_892, 17_632, 74_000, 1_892),
        (None, 29_858, 40_981, 821_000, 2_048),  # 2,003 by the time, which is below the minimum
        (None, 137_000, 156_000, 10_000_000, 6_410),  # 100 * 10 M / 156,000
        (500, 137_000, 156_000, 10_000_000, 500),
        (500, 200, 5, 100, 200),
        (50, 200, 5, 100, 50),
    ],
)
def test_valid_users_depend_only_on_the_sizes(setting, users, items, rows, expected):
    assert count_valid_users(setting, users=users, items=items, rows=rows) == expected


def test_progress_counts_the_users_evaluated():
    scores, relevant, seen, _ = random_case(1)
    calls = []
    users = evaluate(
        Table(scores), relevant, seen, [5], batch_size=16, progress=lambda *c: calls.append(c)
    ).users
    assert calls == [(min(done, users), users) for done in range(16, users + 16, 16)]


def test_nan_names_the_user_and_the_item():
    scores = np.ones((5, 3), dtype=np.float32)
    scores[3, 2] = np.nan
    with pytest.raises(ModelError, match="NaN for user row 3, item row 2"):
        # User 0 has no relevant item, so the row in the batch differs from the row of the user.
        evaluate(Table(scores), matrix([set()] + [{0}] * 4, 3), matrix([set()] * 5, 3), [1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seen": matrix([{1}, {0}], 3)}, "1 pairs are both relevant and seen.*row 1, item row 0"),
        ({"seen": matrix([set()], 3)}, r"relevant is \(2, 3\) and seen is \(1, 3\)"),
        ({"relevant": matrix([set(), set()], 3)}, "nothing to evaluate: 0 relevant"),
        ({"candidates": np.zeros(3, dtype=bool)}, "0 candidates"),
        ({"candidates": np.array([0, 1])}, "bool mask of 3 items"),
        ({"ks": [0, 5]}, "must be positive"),
        ({"ks": []}, "must be positive"),
        ({"batch_size": 0}, "must be positive"),
        ({"scorer": Table(np.ones((2, 4)))}, r"returned \(2, 4\) for 2 users and 3 items"),
    ],
)
def test_wrong_input_is_explained(change, message):
    good = {
        "scorer": Table(np.ones((2, 3))),
        "relevant": matrix([{2}, {0}], 3),
        "seen": matrix([{1}, {1}], 3),
        "ks": [1],
    }
    evaluate(**good)
    with pytest.raises(ModelError, match=message):
        evaluate(**(good | change))


def test_config_defaults_and_errors():
    config = EvaluationConfig()
    assert config.ks == [10, 20, 50, 100]
    assert config.baselines is None
    assert config.valid_users is None
    for bad in (
        {"ks": []},
        {"ks": [10, 0]},
        {"ks": [10, 10]},
        {"batch_size": 0},
        {"valid_users": 0},
        {"catalogue": "all"},
        {"baselines": ["svd"]},
        {"cutoffs": [10]},
    ):
        with pytest.raises(ValidationError, match=next(iter(bad))):
            EvaluationConfig(**bad)


def test_table_shows_models_side_by_side_with_the_best_bold():
    def metrics(value):
        return Metrics({f"{name}@10": value for name in METRICS}, users=1, candidates=1)

    table = metrics_table({"model": metrics(0.25), "random": metrics(0.125)}, "test", [10])
    assert [column.header for column in table.columns] == ["metric", "model", "random"]
    assert list(table.columns[1].cells) == ["[bold]0.2500[/bold]"] * 6 + ["0.2500"]
    assert list(table.columns[2].cells) == ["0.1250"] * 7
    console = Console(width=80, file=io.StringIO())
    console.print(table)
    assert "ndcg@10" in console.file.getvalue()


def test_importing_the_metrics_does_not_import_tensorflow():
    code = (
        "import sys, twotower.models.evaluation.config, twotower.models.evaluation.metrics\n"
        "assert not {'tensorflow', 'merlin', 'nvtabular', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_equal_scores_do_not_favour_the_item_to_be_found():
    """Each of 40 items is to be found once and all scores are 0: ten hits are the fair share."""
    scorer, none = Table(np.zeros((40, 40), np.float32)), csr_matrix((40, 40), dtype=bool)
    metrics = evaluate(scorer, csr_matrix(np.eye(40, dtype=bool)), none, [10])
    assert metrics.values["hit@10"] == 10 / 40
    assert metrics.values["mrr@10"] == pytest.approx((1 / np.arange(1, 11)).sum() / 40)


def test_the_standard_error_is_that_of_the_mean():
    """Of four users, one finds the item: hits 1, 0, 0, 0 have the deviation 1/2."""
    scorer = Table(np.array([[3, 2, 1]] * 4, np.float32))
    relevant = matrix([{0}, {1}, {2}, {2}], 3)
    metrics = evaluate(scorer, relevant, matrix([set()] * 4, 3), [1])
    assert metrics.values["hit@1"] == 0.25
    assert metrics.errors["hit@1"] == pytest.approx(0.5 / 2)
    assert "coverage@1" not in metrics.errors
    assert evaluate(scorer, relevant[:1], matrix([set()], 3), [1]).errors == {}


def test_an_item_that_the_user_has_had_is_never_found_when_masked():
    scorer = Table(np.array([[3, 2, 1]] * 2, np.float32))
    relevant, seen = matrix([{0}, {1}], 3), matrix([{0, 2}, {0}], 3)
    with pytest.raises(ModelError, match="1 pairs are both relevant and seen"):
        evaluate(scorer, relevant, seen, [1])
    masked = evaluate(scorer, relevant, seen, [1], repeats=True)
    assert (masked.values["hit@1"], masked.users) == (0.5, 2)
