"""The verdict on a model: whether it is better than the baselines, and whether the data can tell.

It compares one metric of each user between the model and every baseline. `judge` decides,
`twotower.pipelines.verdict.words` writes the paragraph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from twotower.models.evaluation.significance import holm, paired_difference
from twotower.pipelines.verdict.facts import Facts

MODEL = "two-tower"
POPULARITY, RANDOM = "popularity", "random"
MIN_USERS = 30
"""With fewer users the mean of their differences is too far from normal to test."""
SIGNIFICANT = 0.05
ENOUGH = 0.1
"""The data suffice if a difference of this share of the metric would be seen."""

Outcome = Literal["better", "same", "worse", "no signal", "too few users", "no baseline"]


@dataclass(frozen=True)
class Rival:
    """A baseline, and how the model compares with it.

    Attributes
    ----------
    name : str
    value : float
        The metric of the baseline, averaged over users.
    difference, low, high : float
        The model's mean minus this one, and its 95 % confidence interval.
    p : float
        P-value of the paired t-test, adjusted for the number of baselines (Holm).
    """

    name: str
    value: float
    difference: float
    low: float
    high: float
    p: float

    @property
    def is_beaten(self) -> bool:
        """Whether the model is significantly better."""
        return self.difference > 0 and self.p < SIGNIFICANT

    @property
    def wins(self) -> bool:
        """Whether the model is significantly worse."""
        return self.difference < 0 and self.p < SIGNIFICANT


@dataclass(frozen=True)
class Verdict:
    """What the numbers of an evaluation mean.

    Attributes
    ----------
    metric : str
        The metric that is compared, such as "ndcg@10".
    model : float
        The model's value.
    rivals : tuple of Rival
        The baselines, the highest value first; random ranking is the last.
    outcome : str
        "better", "same" (not distinguishable) or "worse" than the strongest baseline; "no signal"
        if neither the model nor a baseline is better than random ranking; "too few users" (fewer
        than `MIN_USERS`) or "no baseline" if it cannot be told.
    enough : bool
        Whether the data suffice: the difference to the strongest baseline is significant, or a
        difference of `ENOUGH` of the metric would be (half the confidence interval is no wider).
    use : str
        What to use: "two-tower" or the name of a baseline; "random" if all are as good.
    facts : Facts
        What the data are like.
    """

    metric: str
    model: float
    rivals: tuple[Rival, ...]
    outcome: Outcome
    enough: bool
    use: str
    facts: Facts

    @property
    def strongest(self) -> Rival | None:
        """The baseline with the highest value, apart from random ranking."""
        return self.rivals[0] if self.rivals and self.rivals[0].name != RANDOM else None

    def rival(self, name: str) -> Rival | None:
        """Return the baseline `name`, or None if it was not measured."""
        return next((rival for rival in self.rivals if rival.name == name), None)

    @property
    def users_needed(self) -> int | None:
        """About how many users would suffice; None if there are enough or it is unknown."""
        rival = self.strongest
        if self.enough or rival is None or self.outcome == "too few users":
            return None
        half, target = (rival.high - rival.low) / 2, ENOUGH * max(self.model, rival.value)
        return math.ceil(self.facts.users * (half / target) ** 2) if target else None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values for a JSON report."""
        return asdict(self)


def judge(metric: str, values: Mapping[str, np.ndarray], facts: Facts) -> Verdict:
    """Compare the model with the baselines.

    Parameters
    ----------
    metric : str
        The name of the metric.
    values : mapping of str to ndarray of float, shape (n,)
        The metric of each user for the model (`MODEL`) and the baselines, users in the same order.
    facts : Facts

    Returns
    -------
    Verdict
    """
    rivals = _rivals(values)
    model = float(values[MODEL].mean())
    strongest = rivals[0] if rivals and rivals[0].name != RANDOM else None
    outcome = _outcome(values, strongest)
    return Verdict(
        metric=metric,
        model=model,
        rivals=rivals,
        outcome=outcome,
        enough=strongest is not None and _suffices(model, strongest, len(values[MODEL])),
        use=_choice(values, model, rivals, outcome),
        facts=facts,
    )


def _rivals(values: Mapping[str, np.ndarray]) -> tuple[Rival, ...]:
    """The baselines, the highest value first, random ranking last."""
    names = [name for name in values if name != MODEL]
    if len(values[MODEL]) < 2:  # no test is possible
        tests = {}
    else:
        tests = {name: paired_difference(values[MODEL], values[name]) for name in names}
    adjusted = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
    means = {name: float(values[name].mean()) for name in values}
    rivals = [
        Rival(
            name=name,
            value=means[name],
            difference=means[MODEL] - means[name],
            low=tests[name].low if name in tests else -1.0,  # all that is known of a difference
            high=tests[name].high if name in tests else 1.0,  # between shares
            p=adjusted.get(name, 1.0),
        )
        for name in names
    ]
    return tuple(sorted(rivals, key=lambda rival: (rival.name == RANDOM, -rival.value)))


def _outcome(values: Mapping[str, np.ndarray], strongest: Rival | None) -> Outcome:
    if strongest is None:
        return "no baseline"
    if len(values[MODEL]) < MIN_USERS:
        return "too few users"
    if RANDOM in values and not _any_beats_random(values):
        return "no signal"
    if strongest.is_beaten:
        return "better"
    return "worse" if strongest.wins else "same"


def _any_beats_random(values: Mapping[str, np.ndarray]) -> bool:
    """Whether the model or a baseline is significantly better than random ranking."""
    others = [name for name in values if name != RANDOM]
    tests = [paired_difference(values[name], values[RANDOM]) for name in others]
    adjusted = holm([test.p for test in tests])
    return any(test.mean > 0 and p < SIGNIFICANT for test, p in zip(tests, adjusted, strict=True))


def _suffices(model: float, strongest: Rival, users: int) -> bool:
    if users < MIN_USERS:
        return False
    half = (strongest.high - strongest.low) / 2
    return strongest.p < SIGNIFICANT or half <= ENOUGH * max(model, strongest.value)


def _choice(
    values: Mapping[str, np.ndarray], model: float, rivals: tuple[Rival, ...], outcome: Outcome
) -> str:
    """What to use: the towers only if they are better than popularity and not worse than any."""
    popularity = next((rival for rival in rivals if rival.name == POPULARITY), None)
    if outcome in ("better", "no baseline"):
        return MODEL
    if outcome == "no signal":
        return RANDOM
    if outcome == "worse":
        return _simplest(values, rivals[0].name)
    if outcome == "too few users":
        return MODEL if model > rivals[0].value else rivals[0].name
    if outcome == "same" and (popularity is None or popularity.is_beaten):
        return MODEL
    return POPULARITY if popularity else rivals[0].name


def _simplest(values: Mapping[str, np.ndarray], strongest: str) -> str:
    """Popularity if the strongest baseline is not significantly better, because it is simpler."""
    if POPULARITY not in values:
        return strongest
    test = paired_difference(values[strongest], values[POPULARITY])
    return strongest if test.mean > 0 and test.p < SIGNIFICANT else POPULARITY
