"""Guess what the columns of a file mean, and profile the interactions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.pipelines.errors import ConfigError
from twotower.pipelines.init.facts import Facts
from twotower.pipelines.init.features import Features, find_features, only
from twotower.pipelines.init.ids import Ids, Side, find_ids
from twotower.pipelines.init.split import Split, choose_split
from twotower.pipelines.init.times import MISSING, Time, find_time_or_order
from twotower.pipelines.init.value import Value, find_value
from twotower.workflows.profile import Profile, profile

MIN_ROWS, MIN_IDS = 100, 10
"""Fewer positives, or users or items, cannot be learnt from and measured on."""
GOOD_ROWS = 1_000


class Named(NamedTuple):
    """The columns that are known; None for those to guess, "none" for no such column."""

    user: str | None = None
    item: str | None = None
    time: str | None = None
    value: str | None = None
    user_features: Sequence[str] | None = None
    item_features: Sequence[str] | None = None


NOTHING_NAMED = Named()


@dataclass(frozen=True)
class Guess:
    """What the columns mean, and what the interactions look like.

    Attributes
    ----------
    ids : dict of str to str
        The columns of the interactions with the ids, by role: "user" and "item".
    sides : dict of str to Side
        By role, for those with a table of their own.
    time : Time or None
    order : str or None
        The column that orders the interactions of a user, if there is no time.
    value : Value or None
    features : Features
    split : Split
    profile : Profile
        Of the interactions with both ids.
    positives : int
        The number of pairs of user and item with a positive.
    questions : dict of str to list of str
        What is not clear, by the section of the configuration.
    """

    ids: dict[str, str]
    sides: dict[str, Side]
    time: Time | None
    order: str | None
    value: Value | None
    features: Features
    split: Split
    profile: Profile
    positives: int
    questions: dict[str, list[str]]


def guess(
    facts: Mapping[str, Facts],
    sides: Mapping[str, Mapping[str, Facts]],
    named: Named = NOTHING_NAMED,
    where: str = "interactions",
) -> Guess:
    """Guess what the columns mean.

    Parameters
    ----------
    facts : mapping of str to Facts
        The columns of the interactions.
    sides : mapping of str to mapping
        By role, "user" or "item": the columns of its table, if there is one.
    named : Named
        The columns that are known.
    where : str
        The file of the interactions, for messages.

    Returns
    -------
    Guess

    Raises
    ------
    ConfigError
        If the users or the items cannot be told, or the data is too little. The message names the
        candidates, or says what is needed.
    """
    if len(facts) < 2:
        raise ConfigError(
            f"{where}: only one column, {next(iter(facts))!r}; a table of interactions has one "
            "with the users and one with the items. Is it another kind of file?"
        )
    found = find_ids(facts, {"user": named.user, "item": named.item}, sides, where)
    ids = found.columns
    time, order, other_times = find_time_or_order(facts, named.time, ids, where)
    of_time = [time.column] if time else [order] if order else []
    taken = {*ids.values(), *other_times, *of_time}
    value, other_values = find_value(facts, named.value, ids, taken, where)
    if value is not None:
        taken.add(value.column)
    features = find_features(
        facts=facts,
        ids=ids,
        sides={role: (found.sides[role].key, columns) for role, columns in sides.items()},
        seconds=time.seconds if time else None,
        taken=taken | set(other_values),
    )
    features.left_out.update({**other_times, **other_values})
    for role, names in (("user", named.user_features), ("item", named.item_features)):
        if names is not None:
            only(features, role, names, {**sides.get(role, {}), **facts}, where)
    for role, name in ids.items():
        if kind := facts[name].personal:
            question = f"should the run store {kind} ({name}) as ids?"
            found.questions.setdefault(role, []).append(question)
    profile, split, positives = _measure(facts, ids, time, order, value, where)
    return Guess(
        ids=ids,
        sides=found.sides,
        time=time,
        order=order,
        value=value,
        features=features,
        split=split,
        profile=profile,
        positives=positives,
        questions=_questions(found, time, value, features),
    )


def _measure(
    facts: Mapping[str, Facts],
    ids: Mapping[str, str],
    time: Time | None,
    order: str | None,
    value: Value | None,
    where: str,
) -> tuple[Profile, Split, int]:
    """Profile the interactions, split the positives, and count these; refuse too few."""
    known = _has_ids(facts, ids, time)
    users, items = (facts[ids[role]].codes for role in ("user", "item"))
    seconds = time.seconds if time else None
    _check_size(users[known], items[known], where, "rows with a user and an item")
    liked = known & _positives(facts, value)
    _check_size(users[liked], items[liked], where, "positives")
    split, positives = choose_split(
        users=users[liked],
        items=items[liked],
        seconds=seconds[liked] if seconds is not None else None,
        order=facts[order].numbers[liked] if order else None,  # type: ignore[index]
    )
    found = profile(
        users=users[known],
        items=items[known],
        seconds=seconds[known] if seconds is not None else None,
    )
    return found, split, positives


def _has_ids(facts: Mapping[str, Facts], ids: Mapping[str, str], time: Time | None) -> np.ndarray:
    known = np.logical_and.reduce([facts[name].codes >= 0 for name in ids.values()])
    return known & (time.seconds != MISSING) if time else known


def _positives(facts: Mapping[str, Facts], value: Value | None) -> np.ndarray:
    """Whether each row is a positive."""
    first = next(iter(facts.values()))
    if value is None or not (value.values or value.at_least is not None) or value.kind == "unclear":
        return np.ones(first.rows, bool)
    column = facts[value.column]
    if value.values:
        return pc.is_in(column.values, value_set=pa.array(value.values)).to_numpy()
    assert column.numbers is not None
    return column.numbers >= value.at_least


def _check_size(users: np.ndarray, items: np.ndarray, where: str, what: str) -> None:
    sizes = {"users": np.bincount(users), "items": np.bincount(items)}
    counts = {side: int(np.count_nonzero(rows)) for side, rows in sizes.items()}
    counts["rows"] = len(users)
    if counts["rows"] < MIN_ROWS or min(counts["users"], counts["items"]) < MIN_IDS:
        raise ConfigError(
            f"{where}: {counts['rows']:,} {what}, of {counts['users']:,} users and "
            f"{counts['items']:,} items: too few to learn from. At least {MIN_ROWS} rows, "
            f"{MIN_IDS} users and {MIN_IDS} items are needed; {GOOD_ROWS:,} rows or more are better"
        )


def _context_question(features: Features) -> str:
    names = [each.name for each in features.context]
    verb, what = ("is", "it") if len(names) == 1 else ("are", "them")
    return (
        f"{verb} {', '.join(names)} known when recommendations are asked for? Then name {what} "
        "under context."
    )


def _questions(
    ids: Ids, time: Time | None, value: Value | None, features: Features
) -> dict[str, list[str]]:
    """Collect the questions by the section of the configuration that has the default."""
    found = {
        "ingest": [
            *chain(*ids.questions.values()),
            *([time.question] if time and time.question else []),
        ],
        "positives": [value.question] if value and value.question else [],
        "features": features.questions,
    }
    if features.context:
        found["features"] = [*found["features"], _context_question(features)]
    return {section: questions for section, questions in found.items() if questions}
