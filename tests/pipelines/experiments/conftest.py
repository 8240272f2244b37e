"""A comparison with given results."""

from __future__ import annotations

import pytest

from twotower.pipelines.experiments.comparison import CompareConfig, Comparison, Outcome

PLAN = {
    "name": "made-up",
    "about": "Which <b> is best?",
    "base": "synthetic",
    "seeds": [1, 2],
    "variants": {
        "low": {"about": "a | b", "family": "losses"},
        "high": {"family": "towers", "set": {"model.hidden": [64]}},
        "broken": {},
    },
}


def result(valid: float, test: float, seconds: float, **more) -> dict:
    names = ("recall", "coverage", "popularity", "head_recall", "middle_recall", "tail_recall")
    shared = {f"{name}@10": 0.5 for name in names}
    return {
        "seconds": seconds,
        "valid": {**shared, "ndcg@10": valid},
        "test": {**shared, "ndcg@10": test},
        **more,
    }


def trained(valid: float, test: float, seconds: float, best_epoch: int) -> dict:
    curve = {"seconds": [seconds / 2, seconds], "ndcg@10": [valid / 2, valid]}
    return result(valid, test, seconds, epochs=2, best_epoch=best_epoch, curve=curve)


@pytest.fixture
def comparison() -> Comparison:
    """Return a comparison in which valid and test disagree on the better variant."""
    outcomes = [
        Outcome("ease", None, result(0.25, 0.9, 0.5)),
        Outcome("low", 1, trained(0.1, 0.8, 10, 2), "abc"),
        Outcome("high", 1, trained(0.30, 0.20, 20, 1), "abc"),
        Outcome("broken", 1, reason="too <large>"),
        Outcome("low", 2, trained(0.2, 0.8, 30, 5), "abc"),
        Outcome("high", 2, trained(0.34, 0.26, 20, 2), "abc"),
        Outcome("broken", 2, reason="too large"),
    ]
    plan = CompareConfig.parse_obj(PLAN)
    return Comparison(plan, "ndcg@10", "two users; any split", True, outcomes)
