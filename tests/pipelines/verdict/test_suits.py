"""What data a recipe is for, by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.pipelines.steps.test_preprocess import ingested
from twotower.pipelines.config import parse
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.verdict.recipes import Recipe, load_recipe
from twotower.pipelines.verdict.suits import DataFacts, When, data_facts

FACTS = DataFacts(split="random", items=40_981, density=0.00067, history=15.5)


@pytest.mark.parametrize(
    "when, reason",
    [
        ({}, ""),
        ({"split": "random", "items": [40_981, 40_981]}, ""),
        ({"density": [None, 0.01], "history": [15.5, None]}, ""),
        ({"split": "leave_last_out"}, "split.method is random, and it is for leave_last_out"),
        (
            {"split": ["file", "temporal"], "items": [None, 1]},
            "split.method is random, and it is for file or temporal",
        ),
        ({"items": [None, 20_000]}, "40,981 items, and it is for at most 20,000"),
        (
            {"density": [0.01, None]},
            "0.07% of all pairs are positives, and it is for at least 1.00%",
        ),
        ({"history": [16, None]}, "15.5 positives per median user, and it is for at least 16"),
    ],
)
def test_why_a_recipe_is_not_for_data(when, reason):
    assert When(**when).unmet(FACTS) == reason
    assert When(**when).is_general == (not when)


@pytest.mark.parametrize(
    "facts, tried",
    [
        (DataFacts("random", 3_123, 0.036, 68.0), False),  # MovieLens-1M
        (DataFacts("random", 40_981, 0.00066, 16.0), True),  # Gowalla
        (DataFacts("random", 100_001, 0.00066, 16.0), False),
    ],
)
def test_the_recipe_for_sparse_data(facts, tried):
    when = load_recipe("graph").when
    assert (when.unmet(facts) == "") == tried
    assert load_recipe("softmax").when.is_general


def test_conditions_in_words():
    assert str(When()) == ""
    when = When(
        split=["random", "file"], items=[2, 20_000], density=[None, 0.005], history=[3, None]
    )
    assert str(when) == (
        "split.method random or file; items at least 2 and at most 20,000; density at most 0.50%; "
        "history at least 3"
    )


@pytest.mark.parametrize(
    "when, message",
    [
        ({"split": "newest"}, "'newest' is no split.method; choose from random, leave_last_out"),
        ({"item": [1, 2]}, "when.item: no such key; did you mean when.items"),
        ({"items": [1, 2, 3]}, "items"),
        ({"items": 5}, "items"),
    ],
)
def test_mistakes_are_named(when, message):
    with pytest.raises(ConfigError, match=message):
        parse(Recipe, {"about": "x", "set": {}, "when": when}, "recipe.yaml")


def test_the_facts_of_the_training_part(tmp_path):
    # Users 0 to 3 with 10 positives each, of 20 items; the last two of each are not in training.
    rows = pd.DataFrame([(u, 4 * u + i, i) for u in range(4) for i in range(10)])
    rows.columns = ["user_id", "item_id", "timestamp"]
    views = rows.assign(item_id=99)
    rows = pd.concat([rows.assign(event="buy"), views.assign(event="view")])
    settings = {
        "split.method": "leave_last_out",
        "positives.column": "event",
        "positives.values": ["buy"],
    }
    facts = data_facts(ingested(tmp_path, rows, **settings))
    assert facts == DataFacts("leave_last_out", items=20, density=32 / (4 * 20), history=8.0)
