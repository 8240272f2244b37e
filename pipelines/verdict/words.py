"""The verdict in words: one paragraph, each sentence from the numbers of a `Verdict`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twotower.models.evaluation.baselines import BASELINES
from twotower.models.training.config import ClosedFormConfig
from twotower.pipelines.verdict.verdict import (
    ENOUGH,
    MIN_USERS,
    MODEL,
    POPULARITY,
    RANDOM,
    Rival,
    Verdict,
)

if TYPE_CHECKING:
    from twotower.pipelines.config import Config

STABLE = 0.5
"""From this overlap on, the first and the last third of the time count as similar."""
COLD = 0.1
"""From this share on, positives with items that training does not have are worth a sentence."""
MOSTLY = 0.5
"""From this share on, most users or items are meant."""
WIDE = 128
"""The dimension of the recipes that have more of them."""
MIN_HISTORY = 3
"""Median positives per user in training from which a history of them says something."""
MANY_ITEMS = 100_000
"""Up to this many items the recipe graph trains against all of them."""
MANY_USERS = 5_000
"""Test users from which an order can be learned: with 1,225 of made-up orders next-item was worse
than popularity, with 6,040 of MovieLens-1M three times as good as the closed form."""


def paragraph(verdict: Verdict, config: Config, compared: bool = False) -> str:
    """Say what the numbers mean, and what to do next.

    Parameters
    ----------
    verdict : Verdict
    config : Config
        The settings of the run.
    compared : bool
        Whether all recipes have been compared before.

    Returns
    -------
    str
    """
    sentences = [
        _result(verdict),
        _against_popularity(verdict),
        _use(verdict),
        _unmeasured(verdict),
        _data(verdict),
        _sufficiency(verdict),
        _cold(verdict),
        _drift(verdict),
        _next(verdict, config, compared),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def objection(verdict: Verdict) -> str | None:
    """Say in one sentence why the model should not be published; None if nothing speaks against it.

    Parameters
    ----------
    verdict : Verdict

    Returns
    -------
    str or None
    """
    rival = verdict.rival(verdict.use)
    if rival is None:
        return None
    relation = "is worse than" if rival.wins else "is not better than"
    if verdict.outcome == "too few users":
        relation = "is not above"
    return (
        f"by the verdict of its evaluation the model {relation} {rival.name} ({verdict.metric} "
        f"{_figure(verdict.model)} against {_figure(rival.value)})"
    )


def _result(verdict: Verdict) -> str:
    """How the model compares with the strongest baseline."""
    rival, metric = verdict.strongest, verdict.metric
    if rival is None:
        return (
            f"The model has {metric} {_figure(verdict.model)}, but no baseline was measured, so "
            "the number does not say whether the model is worth it: add popularity to "
            "evaluation.baselines."
        )
    against = f"({metric} {_figure(verdict.model)} against {_figure(rival.value)}"
    tested = f"{against}; {_interval(rival)}; paired t-test over users, {_p_value(rival.p)})"
    if verdict.outcome == "too few users":
        return (
            f"There are too few test users to tell whether the model is better than {rival.name} "
            f"{against}): {verdict.facts.users}, and {MIN_USERS} are the least for a test."
        )
    if verdict.outcome == "no signal":
        chance = verdict.rival(RANDOM)
        assert chance is not None  # this outcome is the comparison with it
        best = max(verdict.model, rival.value)
        return (
            f"Neither the model nor a baseline is better than random ranking (the best {metric} "
            f"is {_figure(best)}, random ranking has {_figure(chance.value)}): there is no "
            "pattern in these data that they find."
        )
    relation = {
        "better": "is better than",
        "same": "cannot be told apart from",
        "worse": "is worse than",
    }[verdict.outcome]
    return f"The model {relation} the strongest baseline, {rival.name} {tested}."


def _against_popularity(verdict: Verdict) -> str:
    rival = verdict.rival(POPULARITY)
    if rival is None or rival == verdict.strongest or verdict.outcome == "no signal":
        return ""
    if verdict.outcome == "too few users":
        return f"Popularity has {_figure(rival.value)}."
    relation = "is not better than"
    if rival.is_beaten or rival.wins:
        relation = "is better than" if rival.is_beaten else "is worse than"
    return f"It {relation} popularity ({_figure(rival.value)}, {_p_value(rival.p)})."


def _data(verdict: Verdict) -> str:
    facts = verdict.facts
    single = f", {facts.single:.0%} of them have only one" if facts.single >= MOSTLY else ""
    return (
        f"The numbers are of {facts.users:,} users with {facts.positives:,} test positives (median "
        f"{facts.median:g} per user{single}) and {facts.candidates:,} items."
    )


def _sufficiency(verdict: Verdict) -> str:
    """Whether the data suffice, by the rule of `Verdict.enough`."""
    if verdict.enough:
        return {
            "better": "That is enough to tell.",
            "worse": "That is enough to tell.",
            "same": f"A difference of {ENOUGH:.0%} would have been seen.",
        }.get(verdict.outcome, "")
    if (needed := verdict.users_needed) is None:
        return ""
    return (
        f"That is not enough to tell a difference of {ENOUGH:.0%}: about {needed:,} test users "
        "would be."
    )


def _cold(verdict: Verdict) -> str:
    """What the model cannot know from training: new items and new users."""
    facts, parts = verdict.facts, []
    if facts.cold >= COLD:
        parts.append(
            f"{facts.cold:.0%} of the test positives are of items without a positive in training, "
            "which only item features can help to find"
        )
    if facts.strangers >= COLD:
        parts.append(f"{facts.strangers:.0%} of the test users have no positive in training")
    return "; ".join(parts) + "." if parts else ""


def _drift(verdict: Verdict) -> str:
    """Whether the split measures tomorrow."""
    facts = verdict.facts
    if facts.split in ("temporal", "file"):  # a file may divide by time, too
        return ""
    if facts.overlap is None or facts.overlap >= STABLE:
        return ""
    return (
        "What people take changes over time (the items of the first and the last third overlap by "
        f"{facts.overlap:.2f}, where 1 is no change), but split.method {facts.split} measures past "
        "and future mixed: how good tomorrow's recommendations are is not tested. Set split.method "
        "to temporal."
    )


def _use(verdict: Verdict) -> str:
    rival = verdict.strongest
    if verdict.use == RANDOM:
        return "Any order of the items is as good as the model's."
    if verdict.use != MODEL:
        return f"Use {verdict.use} instead of the model."
    if verdict.outcome == "same" and rival is not None:
        return f"{rival.name} would do as well."
    return ""


def _unmeasured(verdict: Verdict) -> str:
    """Which baseline might be stronger than those that were measured."""
    if verdict.strongest is None or verdict.strongest.name != POPULARITY:
        return ""
    if any(verdict.rival(name) for name in BASELINES if name not in (POPULARITY, RANDOM)):
        return ""
    return (
        "No personal baseline was measured; evaluation.baselines: [popularity, random, itemknn] "
        "adds one."
    )


def _next(verdict: Verdict, config: Config, compared: bool) -> str:
    """Which recipe to try next, or what else to do."""
    facts = verdict.facts
    if verdict.outcome == "no signal" and max(facts.cold, facts.strangers) >= MOSTLY:
        return (
            "The test part is mostly of new users or items: features of them and frequent updates "
            "(`twotower update`) may help; another recipe will hardly do so."
        )
    if verdict.outcome == "no signal":
        return "Other data or features may help; another recipe will hardly do so."
    if verdict.outcome == "too few users":
        return "Collect more data, or use a split with more test users."
    if compared:
        return "The recipes have been compared; `twotower tune` searches for settings."
    if (found := next_recipe(verdict, config)) is None:
        return "No other recipe is likely to be better; `twotower tune` searches for settings."
    name, reason = found
    return (
        f"Next, try --recipe {name} ({reason}); `twotower run --recipe auto` compares all recipes."
    )


def next_recipe(verdict: Verdict, config: Config) -> tuple[str, str] | None:
    """Choose the recipe to try after the settings of a run.

    Parameters
    ----------
    verdict : Verdict
    config : Config

    Returns
    -------
    name, reason : str
        None if no recipe has what these settings lack.
    """
    facts, model, training = verdict.facts, config.model, config.training
    item_features = config.features.sides[1].columns[1:]
    has_context = bool(config.features.context_columns or config.features.time)
    if model.sequence is not None:
        return None
    is_next_item = facts.split == "leave_last_out" and facts.users >= MANY_USERS
    if is_next_item and facts.history >= MIN_HISTORY and not has_context:
        return "next-item", "the split asks for the next item, and these towers ignore the order"
    if training.start is not None or model.graph is not None:
        if facts.cold >= COLD and item_features:
            return (
                "softmax",
                "these towers learn little from features, and items are new in the test part",
            )
        return None
    if facts.history >= MIN_HISTORY:
        positives = f"users have a median of {facts.history:g} positives in training"
        few = facts.train_items <= ClosedFormConfig().most_items
        if not has_context:  # the closed form has no context
            if few:
                items = f"the {facts.train_items:,} items are few enough to solve for"
                return "closed-form", f"{items}, and {positives}"
            name = "graph" if facts.train_items <= MANY_ITEMS else "closed-form-sparse"
            return name, f"{facts.train_items:,} items, and {positives}"
        if config.features.history is None:
            return "softmax-history", positives
    if model.dim < WIDE:
        return "softmax-wide", f"vectors of {WIDE} dimensions instead of {model.dim}"
    return None


def _figure(value: float) -> str:
    return f"{value:.4f}"


def _interval(rival: Rival) -> str:
    return (
        f"difference {rival.difference:+.4f}, 95 % interval {rival.low:+.4f} to {rival.high:+.4f}"
    )


def _p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
