"""Spaces: what is rejected, and what Optuna is asked for."""

from __future__ import annotations

import optuna
import pytest
from pydantic import ValidationError

from twotower.pipelines.experiments.space import Space


@pytest.mark.parametrize(
    "space, message",
    [
        ({}, "give low and high, or choices"),
        ({"low": 1}, "give low and high, or choices"),
        ({"low": 2, "high": 1}, r"low \(2\) must be less than high \(1\)"),
        ({"low": 0, "high": 1, "log": True}, "log requires a low above 0"),
        ({"low": 1, "high": 9, "log": True, "step": 2}, "and no step"),
        ({"low": 1, "high": 9, "step": 0}, r"step \(0\) must be above 0"),
        ({"low": "much", "high": 9}, "'much' is not a number"),
        ({"low": 1, "high": 9, "choices": [1]}, "give either choices, or low and high"),
        ({"choices": []}, "choices: empty"),
        ({"low": 1, "high": 9, "base": 2}, "extra fields not permitted"),
    ],
)
def test_an_invalid_space_is_rejected(space, message):
    with pytest.raises(ValidationError, match=message):
        Space.parse_obj(space)


@pytest.mark.parametrize(
    "space, inside, outside",
    [
        ({"low": 16, "high": 64, "step": 16}, [16, 32, 64], [17, 80, 32.5, "32", True, None]),
        ({"low": 1, "high": 3}, [1, 2, 3], [0, 2.5]),
        ({"low": "1e-4", "high": 1, "log": True}, [1e-4, 0.3, 1], [0, 1.1]),
        ({"low": 0.1, "high": 0.7, "step": 0.2}, [0.1, 0.3, 0.7], [0.2]),
        ({"choices": [[], [64, 32], None, "adam"]}, [[], [64, 32], None, "adam"], [[64], "sgd"]),
    ],
)
def test_the_suggested_values_are_those_in_the_space(space, inside, outside):
    space = Space.parse_obj(space)
    assert all(space.has(value) for value in inside)
    assert not any(space.has(value) for value in outside)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    suggested = [space.suggest(study.ask(), "key") for _ in range(40)]
    assert all(space.has(value) for value in suggested)
    for value in inside:  # each of them can be enqueued
        study.enqueue_trial({"key": space.stored(value)})
        assert space.suggest(study.ask(), "key") == value


def test_values_are_integers_if_all_numbers_of_the_space_are():
    assert Space(low=1, high=3).whole
    assert not Space(low=1, high=3.0).whole and not Space(low=1, high=3, step=0.5).whole
