"""Wrong feature settings."""

from __future__ import annotations

import pytest

from twotower.workflows.features.config import FeaturesConfig


@pytest.mark.parametrize(
    "config",
    [
        {"user": ["age"], "user_numeric": ["age"]},
        {"item_multi_hot": {"age": 3}, "item_text": {"age": 3}},
        {"item": ["age"], "item_text": {"age": 3}},
        {"user_multi_hot": {"age": 3}, "item_multi_hot": {"age": 3}},
        {"item_numeric": ["age", "age"]},
    ],
)
def test_a_column_has_one_use(config):
    with pytest.raises(ValueError, match="age: named twice; a column can be used once"):
        FeaturesConfig(**config)


@pytest.mark.parametrize("kind", ["user_multi_hot", "item_multi_hot", "item_text"])
def test_a_list_keeps_at_least_one_value(kind):
    with pytest.raises(ValueError, match="greater than 0"):
        FeaturesConfig(**{kind: {"likes": 0}})


def test_a_column_named_as_the_history_is_refused():
    with pytest.raises(ValueError, match=r"features\.history makes the column 'history'"):
        FeaturesConfig(history=2, user_multi_hot={"history": 3})
