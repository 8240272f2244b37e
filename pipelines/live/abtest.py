"""Judges an experiment: the hit rates of two versions, from their answers and the events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from rich.table import Table

from twotower.pipelines.console import console
from twotower.pipelines.errors import RunError
from twotower.pipelines.live.store import event_rules, opened_store
from twotower.pipelines.run import Run
from twotower.serving.runtime.experiment.answers import ITEMS, TIME, USER, VERSION
from twotower.serving.runtime.live.rules import Event, EventRules
from twotower.serving.runtime.live.store import ANSWERS

CONFIDENCE = 0.95
DAY = 86_400
SUSPICIOUS = 0.001
"""Below this probability, the sizes of the groups are no chance of the division."""


@dataclass(frozen=True)
class ArmResult:
    """What is known of the users of a version.

    Attributes
    ----------
    version : int
    users : int
        Users who were answered.
    answers : int
    hits : int
        Users with a positive event on an item of an answer that they got before it.
    rate, low, high : float
        The hit rate, which is the share of the users with a hit, and its confidence interval, 95 %
        (Wilson, 1927).
    """

    version: int
    users: int
    answers: int
    hits: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """The result of an experiment.

    Attributes
    ----------
    control, treatment : ArmResult
    difference : float
        Hit rate of the treatment minus that of the control.
    low, high : float
        Its confidence interval, 95 % (Newcombe, 1998, method 10).
    imbalance : float or None
        Probability that the sizes of the groups are as far or farther from the configured share;
        None if no share is configured.
    """

    control: ArmResult
    treatment: ArmResult
    difference: float
    low: float
    high: float
    imbalance: float | None


def abtest(run: Run, days: float | None = None) -> Comparison:
    """Compare the versions of the run's experiment, and print the result.

    Parameters
    ----------
    run : Run
    days : float, optional
        How long after an answer an event counts; by default without a limit.

    Raises
    ------
    ConfigError
        If the run keeps no events.
    RunError
        If nothing was answered during an experiment.
    ServingError
        If the store cannot be read.
    """
    rules, experiment = event_rules(run), run.config.serving.experiment
    with opened_store(run) as store:
        events = [each.event for each in store.read_new()]
    with opened_store(run, ANSWERS) as store:
        answers = [each.event for each in store.read_new()]
    versions = [experiment.control, experiment.treatment] if experiment else _latest(answers)
    if len(versions) < 2 or not any(answer[VERSION] in versions for answer in answers):
        raise RunError(
            "no two versions have answered beside each other yet; serve two with twotower serve "
            '--set "serving.experiment.control=1 serving.experiment.treatment=2"'
        )
    limit = None if days is None else days * DAY
    control, treatment = (judge(version, answers, events, rules, limit) for version in versions[:2])
    share = experiment.share if experiment else None
    result = compare(control, treatment, share)
    _print(result, share)
    return result


def _latest(answers: Sequence[Event]) -> list[int]:
    """Return the two versions that answered last, the lower number first."""
    found = dict.fromkeys(answer[VERSION] for answer in reversed(answers))
    return sorted(list(found)[:2])


def judge(
    version: int,
    answers: Iterable[Mapping[str, Any]],
    events: Iterable[Event],
    rules: EventRules,
    limit: float | None = None,
) -> ArmResult:
    """Count the users of a version, and those with a hit.

    Parameters
    ----------
    version : int
    answers : iterable of mapping
        As `AnswerLog` keeps them.
    events : iterable of dict
    rules : EventRules
        Says which events are positives.
    limit : float, optional
        Number of seconds after an answer in which an event counts.
    """
    given: dict[Any, list[tuple[int, frozenset]]] = defaultdict(list)
    for answer in answers:
        if answer[VERSION] == version:
            given[answer[USER]].append((answer[TIME], frozenset(answer[ITEMS])))
    hits = {
        event[rules.user]
        for event in events
        if rules.is_positive(event)
        and any(
            seconds <= event[rules.time] <= seconds + (limit or float("inf"))
            and event[rules.item] in items
            for seconds, items in given.get(event[rules.user], ())
        )
    }
    low, high = _interval(len(hits), len(given))
    return ArmResult(
        version=version,
        users=len(given),
        answers=sum(map(len, given.values())),
        hits=len(hits),
        rate=len(hits) / len(given) if given else 0.0,
        low=low,
        high=high,
    )


def compare(control: ArmResult, treatment: ArmResult, share: float | None) -> Comparison:
    """Compare two versions; `share` is that of the treatment, as configured."""
    from scipy.stats import binomtest

    difference = treatment.rate - control.rate
    below = sqrt((treatment.rate - treatment.low) ** 2 + (control.high - control.rate) ** 2)
    above = sqrt((treatment.high - treatment.rate) ** 2 + (control.rate - control.low) ** 2)
    users, imbalance = control.users + treatment.users, None
    if share is not None and users:
        imbalance = float(binomtest(treatment.users, users, share).pvalue)
    return Comparison(
        control, treatment, difference, difference - below, difference + above, imbalance
    )


def _interval(hits: int, users: int) -> tuple[float, float]:
    """Return Wilson's interval of a rate; of no users, everything is possible."""
    if not users:
        return 0.0, 1.0
    from scipy.stats import binomtest

    found = binomtest(hits, users).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def _print(result: Comparison, share: float | None) -> None:
    table = Table(box=None)
    for name in (
        "",
        "version",
        "users",
        "answers",
        "users with a hit",
        "hit rate",
        "95 % interval",
    ):
        table.add_column(name, justify="left" if not name else "right")
    for name, arm in (("control", result.control), ("treatment", result.treatment)):
        table.add_row(
            name,
            str(arm.version),
            f"{arm.users:,}",
            f"{arm.answers:,}",
            f"{arm.hits:,}",
            f"{arm.rate:.4f}",
            f"{arm.low:.4f} to {arm.high:.4f}",
        )
    console.print(table)
    verdict = "no difference is shown"
    if result.low > 0:
        verdict = "the treatment is better"
    elif result.high < 0:
        verdict = "the treatment is worse"
    console.print(
        f"difference {result.difference:+.4f} (95 % interval {result.low:+.4f} to "
        f"{result.high:+.4f}): {verdict}"
    )
    if result.imbalance is not None and result.imbalance < SUSPICIOUS:
        console.print(
            f"[bold red]warning[/] a share of {share:g} of the users should get the treatment, but "
            f"the groups are not divided like that (p = {result.imbalance:.1g}): something removes "
            "users of one group, so the rates cannot be compared"
        )
