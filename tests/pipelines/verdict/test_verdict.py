"""The verdict on values by hand: outcomes, the choice, and when data suffice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from twotower.pipelines.config import load_config
from twotower.pipelines.verdict.facts import Facts
from twotower.pipelines.verdict.recipes import recipe_settings
from twotower.pipelines.verdict.verdict import MODEL, judge
from twotower.pipelines.verdict.words import next_recipe, objection, paragraph

FACTS = Facts(
    users=200,
    positives=400,
    median=2.0,
    single=0.1,
    candidates=500,
    cold=0.0,
    strangers=0.0,
    history=10.0,
    train_items=450,
    split="random",
    overlap=0.9,
)
CONFIG = load_config("synthetic")
GRAPH = recipe_settings("graph")


def values(users: int = 200, **means: float) -> dict[str, np.ndarray]:
    """Per model the metric of each user: the same noise around different means."""
    noise = np.random.default_rng(0).normal(scale=0.05, size=(len(means), users))
    shared = np.random.default_rng(1).normal(scale=0.1, size=users)
    named = {name.replace("model", MODEL): mean for name, mean in means.items()}
    return {
        name: mean + shared - shared.mean() + row - row.mean()
        for (name, mean), row in zip(named.items(), noise, strict=True)
    }


def verdict_of(facts: Facts = FACTS, **means: float):
    return judge("ndcg@10", values(facts.users, **means), facts)


@pytest.mark.parametrize(
    ("means", "outcome", "use"),
    [
        ({"model": 0.5, "popularity": 0.3, "random": 0.1, "itemknn": 0.4}, "better", MODEL),
        ({"model": 0.4, "popularity": 0.3, "random": 0.1, "itemknn": 0.401}, "same", MODEL),
        ({"model": 0.4, "popularity": 0.3, "random": 0.1, "itemknn": 0.5}, "worse", "itemknn"),
        ({"model": 0.3, "popularity": 0.301, "random": 0.1}, "same", "popularity"),
        ({"model": 0.301, "popularity": 0.3, "random": 0.1}, "same", "popularity"),
        ({"model": 0.3, "popularity": 0.301, "itemknn": 0.302}, "same", "popularity"),
        ({"model": 0.2, "popularity": 0.3, "random": 0.1}, "worse", "popularity"),
        ({"model": 0.2, "popularity": 0.3, "itemknn": 0.302}, "worse", "popularity"),
        ({"model": 0.101, "popularity": 0.099, "random": 0.1}, "no signal", "random"),
        ({"model": 0.05, "popularity": 0.06, "random": 0.1}, "no signal", "random"),
        ({"model": 0.3}, "no baseline", MODEL),
        ({"model": 0.3, "random": 0.1}, "no baseline", MODEL),
        ({"model": 0.4, "itemknn": 0.401}, "same", MODEL),
    ],
)
def test_the_outcome_and_what_to_use(means, outcome, use):
    verdict = verdict_of(**means)
    assert (verdict.outcome, verdict.use) == (outcome, use)
    assert (objection(verdict) is None) == (use == MODEL)
    text = paragraph(verdict, CONFIG)
    assert (f"Use {use} instead of the model." in text) == (use not in (MODEL, "random"))
    assert "200 users with 400 test positives (median 2 per user) and 500 items" in text


def test_the_strongest_baseline_has_the_highest_mean_and_random_is_last():
    verdict = verdict_of(model=0.5, random=0.45, popularity=0.3, itemknn=0.4)
    assert [rival.name for rival in verdict.rivals] == ["itemknn", "popularity", "random"]
    assert verdict.strongest.name == "itemknn"
    assert verdict.strongest.difference == pytest.approx(0.1)
    assert verdict.strongest.low < 0.1 < verdict.strongest.high


def test_several_baselines_need_stronger_evidence_than_one():
    """A difference with p = 0.03 is significant against one baseline, not among three."""
    given = values(model=0.4112, popularity=0.4)
    alone = judge("ndcg@10", given, FACTS)
    assert 0.02 < alone.strongest.p < 0.05 and alone.outcome == "better"
    p_popularity = given["popularity"]
    among = judge("ndcg@10", {**given, "itemknn": p_popularity, "ease": p_popularity}, FACTS)
    assert among.strongest.p == pytest.approx(3 * alone.strongest.p) and among.outcome == "same"


def test_with_few_users_nothing_is_told_and_the_higher_one_is_taken():
    few = replace(FACTS, users=29)
    better, worse = verdict_of(few, model=0.9, popularity=0.1), verdict_of(few, model=0.1, ease=0.9)
    assert {better.outcome, worse.outcome} == {"too few users"}
    assert not better.enough and (better.use, worse.use) == (MODEL, "ease")
    assert objection(better) is None and "is not above ease" in objection(worse)
    assert "29, and 30 are the least for a test" in paragraph(better, CONFIG)
    assert verdict_of(replace(FACTS, users=30), model=0.9, popularity=0.1).outcome == "better"
    alone = verdict_of(replace(FACTS, users=1), model=0.9, popularity=0.1)
    assert (alone.strongest.low, alone.strongest.high, alone.strongest.p) == (-1, 1, 1)


def test_data_suffice_if_a_tenth_of_the_metric_would_be_seen():
    wide, narrow = verdict_of(model=0.05, itemknn=0.0505), verdict_of(model=0.5, itemknn=0.4999)
    assert (wide.outcome, wide.enough, narrow.outcome, narrow.enough) == (
        *("same", False),
        *("same", True),
    )
    half = (wide.strongest.high - wide.strongest.low) / 2
    assert wide.users_needed == np.ceil(200 * (half / 0.00505) ** 2) > 200
    assert f"about {wide.users_needed:,} test users would be" in paragraph(wide, CONFIG)
    # So many users halve the interval as often as is needed.
    enough = replace(FACTS, users=wide.users_needed + 400)
    assert verdict_of(enough, model=0.05, itemknn=0.0505).enough
    assert narrow.users_needed is None
    assert "A difference of 10% would have been seen." in paragraph(narrow, CONFIG)


def test_new_items_drift_and_single_positives_are_said():
    facts = replace(FACTS, cold=0.4, strangers=0.2, single=0.75, overlap=0.2)
    text = paragraph(verdict_of(facts, model=0.5, popularity=0.3), CONFIG)
    assert "40% of the test positives are of items without a positive in training" in text
    assert "20% of the test users have no positive in training" in text
    assert "75% of them have only one" in text
    assert "overlap by 0.20" in text and "Set split.method to temporal." in text
    for method in ("temporal", "file"):
        divided = replace(facts, split=method)
        text = paragraph(verdict_of(divided, model=0.5, popularity=0.3), CONFIG)
        assert "split.method" not in text
    plain = paragraph(verdict_of(model=0.5, popularity=0.3), CONFIG)
    assert not any(word in plain for word in ("training,", "overlap", "only one"))
    untimed = replace(FACTS, overlap=None)
    assert "overlap" not in paragraph(verdict_of(untimed, model=0.5, popularity=0.3), CONFIG)


@pytest.mark.parametrize(
    ("overrides", "facts", "recipe"),
    [
        ((), {}, "closed-form"),
        ((), {"train_items": 10_001}, "graph"),
        ((), {"train_items": 100_001}, "closed-form-sparse"),
        (GRAPH, {"train_items": 10_001}, None),
        (GRAPH, {"train_items": 10_001, "cold": 0.4}, "softmax"),
        ((), {"split": "leave_last_out", "users": 5_000}, "next-item"),
        ((), {"split": "leave_last_out", "users": 4_999}, "closed-form"),
        (
            ("features.context=[month]",),
            {"split": "leave_last_out", "users": 5_000},
            "softmax-history",
        ),
        (("features.history=20", "features.context=[month]"), {}, "softmax-wide"),
        (("features.history=20", "features.context=[month]", "model.dim=128"), {}, None),
        (
            ("features.history=20", "model.sequence={}"),
            {"split": "leave_last_out", "users": 5_000},
            None,
        ),
        ((), {"history": 2.0}, "softmax-wide"),
        (("features.context=[month]",), {}, "softmax-history"),
    ],
)
def test_the_next_recipe_is_one_that_the_data_allow(overrides, facts, recipe):
    config = load_config("synthetic", overrides)
    verdict = verdict_of(replace(FACTS, **facts), model=0.5, popularity=0.3)
    found = next_recipe(verdict, config)
    assert (found and found[0]) == recipe
    advice = f"--recipe {recipe}" if recipe else "No other recipe is likely to be better"
    assert advice in paragraph(verdict, config)


def test_after_the_closed_form_features_help_only_with_new_items():
    history = load_config("ml-1m-history")
    with_features = load_config("ml-1m-history", ("features.item=[year]",))
    cold = verdict_of(replace(FACTS, cold=0.3), model=0.5, popularity=0.3)
    assert next_recipe(cold, with_features)[0] == "softmax"
    assert next_recipe(cold, history) is None
    assert next_recipe(verdict_of(model=0.5, popularity=0.3), with_features) is None
