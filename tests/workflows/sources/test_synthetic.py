"""The synthetic source: shape, determinism, and that what was planted can be found."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from twotower.workflows.sources.synthetic import AGES, GENRES, RATINGS, SyntheticConfig, synthesise

SMALL = SyntheticConfig(users=600, items=400, interactions=36_000, seed=3)


@pytest.fixture(scope="module")
def tables():
    return synthesise(SMALL)


def test_columns_and_types_are_those_of_ml_1m(tables):
    assert {f.name: str(f.type) for f in tables.interactions.schema} == {
        "user_id": "int64",
        "item_id": "int64",
        "rating": "float",
        "timestamp": "int64",
    }
    assert {f.name: str(f.type) for f in tables.users.schema} == {
        "user_id": "int64",
        "gender": "string",
        "age": "int64",
        "occupation": "int64",
        "zip_code": "string",
    }
    assert tables.items.schema.names == ["item_id", "title", "year", "genres"]
    first = {name: column[0] for name, column in tables.items.to_pydict().items()}
    assert first["title"] == f"Film {first['item_id']:04d} ({first['year']})"


def test_values_are_in_the_published_ranges(tables):
    users, items = tables.users.to_pandas(), tables.items.to_pandas()
    assert set(users["gender"]) == {"F", "M"} and set(users["age"]) <= set(AGES)
    assert users["occupation"].between(0, 20).all()
    assert users["zip_code"].str.fullmatch("[0-9]{5}").all()
    assert items["year"].between(1919, 2000).all()
    assert set(items["genres"].explode()) <= set(GENRES) and len(GENRES) == 18
    assert items["genres"].str.len().between(1, 4).all()
    for ids in (users["user_id"], items["item_id"]):
        assert ids.is_monotonic_increasing and ids.is_unique
        assert ids.iloc[0] > 0 and ids.iloc[-1] > len(ids)  # gaps


def test_activity_popularity_and_ratings_have_ml_1m_s_shape(tables):
    rows = tables.interactions.to_pandas()
    assert len(rows) == pytest.approx(SMALL.interactions, rel=0.01)
    assert not rows.duplicated(["user_id", "item_id"]).any()
    per_user, per_item = rows["user_id"].value_counts(), rows["item_id"].value_counts()
    assert per_user.min() >= 20 and len(per_user) == SMALL.users
    assert per_user.mean() > 1.2 * per_user.median()
    assert per_item.iloc[:40].sum() > 0.2 * len(rows)  # a tenth of the items
    shares = rows["rating"].value_counts(normalize=True).sort_index()
    assert shares.index.to_list() == [1, 2, 3, 4, 5]
    assert shares.to_numpy() == pytest.approx(RATINGS, abs=0.002)
    assert rows["rating"].mean() == pytest.approx(3.58, abs=0.02)
    assert (rows.groupby("user_id")["timestamp"].diff().dropna() >= 0).all()


def test_one_seed_gives_one_data_set(tables):
    again, other = synthesise(SMALL), synthesise(SMALL.copy(update={"seed": 4}))
    assert [t.equals(a) for t, a in zip(tables, again, strict=True)] == [True] * 3
    assert [t.equals(o) for t, o in zip(tables, other, strict=True)] == [False] * 3


def test_planted_tastes_are_found_by_a_truncated_svd(tables):
    chosen, held_out = _train_and_held_out(tables)
    popularity = np.tile(chosen.sum(axis=0), (len(chosen), 1))
    weights = chosen / np.sqrt(chosen.sum(axis=0, keepdims=True) + 1)
    left, values, right = np.linalg.svd(weights, full_matrices=False)
    svd = (left[:, :12] * values[:12]) @ right[:12] * np.sqrt(chosen.sum(axis=0) + 1)
    found, base = (_recall(scores, chosen, held_out) for scores in (svd, popularity))
    assert found > 1.4 * base, (found, base)


def test_demographics_alone_beat_popularity_for_unknown_users(tables):
    chosen, held_out = _train_and_held_out(tables)
    everything = np.maximum(chosen, held_out)
    users = tables.users.to_pandas()
    facts = pd.get_dummies(users[["gender", "age", "occupation"]].astype(str)).to_numpy(float)
    known = np.arange(len(users)) % 5 != 0
    gram = facts[known].T @ facts[known] + 10 * np.eye(facts.shape[1])
    rates = everything[known] / everything[known].sum(axis=1, keepdims=True)
    scores = facts[~known] @ np.linalg.solve(gram, facts[known].T @ rates)
    popularity = np.tile(everything[known].sum(axis=0), ((~known).sum(), 1))
    nothing = np.zeros_like(everything[~known])
    informed = _recall(scores, nothing, everything[~known])
    assert informed > 1.15 * _recall(popularity, nothing, everything[~known])


def _train_and_held_out(tables) -> tuple[np.ndarray, np.ndarray]:
    """0/1 matrices [users, items]; a random fifth of the ratings of 3 or more is held out."""
    rows = tables.interactions.to_pandas()
    rows = rows[rows["rating"] >= 3]
    users = np.searchsorted(tables.users["user_id"].to_numpy(), rows["user_id"])
    items = np.searchsorted(tables.items["item_id"].to_numpy(), rows["item_id"])
    hidden = np.random.default_rng(0).random(len(rows)) < 0.2
    matrices = np.zeros((2, SMALL.users, SMALL.items))
    matrices[hidden.astype(int), users, items] = 1
    return matrices[0], matrices[1]


def _recall(scores: np.ndarray, seen: np.ndarray, relevant: np.ndarray, k: int = 10) -> float:
    top = np.argsort(np.where(seen > 0, -np.inf, scores), axis=1)[:, -k:]
    hits = np.take_along_axis(relevant, top, axis=1).sum(axis=1)
    return float((hits / np.maximum(relevant.sum(axis=1), 1)).mean())


def test_a_size_that_cannot_be_is_refused_with_the_range():
    with pytest.raises(ValidationError, match=r"2000 .* to 2500"):
        SyntheticConfig(users=100, items=100, interactions=50_000)
