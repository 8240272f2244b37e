"""Find the column that says how much a user liked an item, and which rows are positives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc

from twotower.pipelines.errors import ConfigError
from twotower.pipelines.init.facts import MIN_REPEATED, Facts, constancy
from twotower.pipelines.init.ids import DECIDED, check_name
from twotower.pipelines.init.names import has_role, word_set

Kind = Literal["rating", "binary", "event", "count", "unclear"]
ORDER: tuple[Kind, ...] = ("rating", "event", "binary", "count", "unclear")
MAX_EVENTS = 30
"""Different values that a column of event types may have."""
TOP_OF_SCALES = {5.0: 4.0, 10.0: 7.0, 100.0: 70.0}
"""The lowest rating that counts as liked, by the highest of the scale."""
MIN_LIKED = 0.2
"""Share of the rows that must be liked; otherwise the median is the threshold."""
EVENTS = word_set(
    """view views click purchase buy bought addtocart add_to_cart cart basket transaction order
    pv fav like favorite favourite wishlist play listen watch download share save checkout
    impression rate comment follow detail_view search"""
)
NOT_LIKED = word_set(
    """dislike skip remove removed return returned refund refunded cancel cancelled impression
    impressions exposure shown hide unlike unfollow remove_from_cart delete report"""
)
YES, NO = word_set("true yes y t ja oui si sí"), word_set("false no n f nein non")


@dataclass(frozen=True)
class Value:
    """The column that tells positives from other rows.

    Attributes
    ----------
    column : str
    kind : str
        rating, binary, event, count, or unclear: numbers that may be a rating or a quantity.
    at_least : float or None
        The threshold of positives, if it is used.
    values : list of str or int
        The values of positives, if they are events.
    share : float
        The share of the rows that are positives.
    question : str or None
        What is not clear.
    """

    column: str
    kind: Kind
    at_least: float | None
    values: list[str] | list[int]
    share: float
    question: str | None


def find_value(
    facts: Mapping[str, Facts],
    named: str | None,
    ids: Mapping[str, str],
    taken: set[str],
    where: str,
) -> tuple[Value | None, dict[str, str]]:
    """Find the column that tells positives from other rows.

    Parameters
    ----------
    facts : mapping of str to Facts
        The columns of the interactions.
    named : str or None
        The column, if it is known; "none" if there is none.
    ids : mapping of str to str
        The columns of the ids by role.
    taken : set of str
        Columns that are something else.
    where : str
        The file, for messages.

    Returns
    -------
    value : Value or None
    others : dict of str to str
        Other columns that may be it, and why they are not used.

    Raises
    ------
    ConfigError
        If there is no column `named`, or its values cannot tell positives.
    """
    if named == "none":
        return None, {}
    if named is not None:
        column = facts[check_name(named, facts, where, "value")]
        kind = _kind(column) or _kind_of_values(column)
        if kind is None:
            raise ConfigError(
                f"{where}: column {named!r} has values such as {column.examples()}, which are "
                f"neither numbers nor at most {MAX_EVENTS} kinds of events; name another one, or "
                "--value none"
            )
        # Numbers of a scale that were named say how much a user liked an item.
        return _value(column, "rating" if kind == "unclear" else kind, []), {}
    kinds: dict[str, Kind] = {}
    for name, column in facts.items():
        if name in taken or (found := _kind(column)) is None:
            continue
        if _is_an_attribute(column, facts, ids):
            continue
        kinds[name] = found
    if not kinds:
        return None, {}
    best, *rest = sorted(kinds, key=lambda name: ORDER.index(kinds[name]))
    same = [name for name in rest if kinds[name] == kinds[best] != "unclear"]
    others = {
        name: f"a {kinds[name]}; {best} is used"
        for name in rest
        if kinds[name] != "unclear" and kinds[best] != "unclear"
    }
    return _value(facts[best], kinds[best], same), others


def _is_an_attribute(column: Facts, facts: Mapping[str, Facts], ids: Mapping[str, str]) -> bool:
    shares = [constancy(column.codes, facts[each].codes) for each in ids.values()]
    return any(share >= DECIDED and count >= MIN_REPEATED for share, count in shares)


def _kind(column: Facts) -> Kind | None:
    """Tell the kind by the name and the values."""
    if column.is_list or column.is_time or column.distinct < 2:
        return None
    numeric, name = column.numbers is not None, column.name
    flag = _is_flag(column)
    if numeric and has_role(name, "rating") and _is_scale(*column.range):
        return "rating"
    if column.distinct <= MAX_EVENTS and _has_events(column):
        return "event"
    if has_role(name, "binary") and (flag or _yes(column)):
        return "binary" if flag else "event"
    if has_role(name, "money") and not has_role(name, "count"):
        return None
    if column.is_whole and has_role(name, "count") and not (flag or has_role(name, "order")):
        return "count"
    if not numeric or column.is_boolean or flag or has_role(name, "order"):
        return None
    low, high = column.range
    halves = bool((np.mod(column.known_numbers * 2, 1) == 0).all())
    return "unclear" if halves and column.distinct <= 12 and low >= 0 and high <= 10 else None


def _kind_of_values(column: Facts) -> Kind | None:
    """Tell the kind of a column that was named: any numbers, or a few texts."""
    if column.numbers is not None:
        return "binary" if _is_flag(column) else "count"
    return "event" if 2 <= column.distinct <= MAX_EVENTS else None


def _is_flag(column: Facts) -> bool:
    """Whether the numbers are 0 and 1."""
    return set(np.unique(column.known_numbers)) == {0.0, 1.0}


def _is_scale(low: float, high: float) -> bool:
    """Whether these are the ends of a scale of ratings: of 5, 10 or 100, or likes and dislikes."""
    return high <= 10 or 50 <= high <= 100


def _has_events(column: Facts) -> bool:
    """Whether the values are known events, or numbers whose column is named like events."""
    if column.numbers is not None:
        return column.is_whole and column.distinct <= 10 and has_role(column.name, "event")
    known = sum(_event(text) in EVENTS | NOT_LIKED for text in column.texts)
    return known >= (1 if has_role(column.name, "event") else 2)


def _yes(column: Facts) -> list[str]:
    """Return the text that says yes in a column of yes and no."""
    texts = {text.strip().lower(): text for text in column.texts}
    known = len(texts) == 2 and texts.keys() <= YES | NO
    return [text for lower, text in texts.items() if lower in YES] if known else []


def _event(text: str) -> str:
    return text.strip().lower().replace("-", "_").replace(" ", "_")


def _value(column: Facts, kind: Kind, same: list[str]) -> Value:
    at_least: float | None = None
    values: list[Any] = []
    question: str | None = None
    share = 1.0
    if kind == "rating":
        at_least = _threshold(column)
    elif kind == "binary":
        at_least = 1.0
    elif kind == "event" and (values := _yes(column)):
        share = pc.sum(pc.equal(column.values, values[0])).as_py() / column.rows
    elif kind == "event":
        values, share, question = _events(column)
    elif kind == "unclear":
        question = (
            f"what is {column.name} ({column.examples()})? If it says how much a user likes an "
            "item, use the line below; if it counts, use it as a weight."
        )
    elif column.range[0] <= 0:
        at_least = 1.0
        question = (
            f"{column.name} has values of 0 and less, such as returns. Are only rows with "
            f"{at_least:g} and more positives?"
        )
    if at_least is not None and column.numbers is not None:
        share = float((column.numbers >= at_least).mean())
    if same:
        text = f"is {column.name} the {kind} to use? {', '.join(same)} may be it, too."
        question = f"{question} {text}" if question else text
    return Value(column.name, kind, at_least, values, share, question)


def _threshold(column: Facts) -> float:
    known = column.known_numbers
    top = next((scale for scale in TOP_OF_SCALES if column.range[1] <= scale), None)
    if column.range[1] > 2 and top is not None:
        if (known >= TOP_OF_SCALES[top]).mean() >= MIN_LIKED:
            return TOP_OF_SCALES[top]
    elif column.range[1] <= 1 and column.is_whole:
        return 1.0
    return float(np.median(known))


def _events(column: Facts) -> tuple[list[Any], float, str]:
    """Choose the events that are positives: all but those that say no."""
    counts = {each["values"]: each["counts"] for each in pc.value_counts(column.values).to_pylist()}
    counts.pop(None, None)
    ranked = sorted(counts, key=lambda text: (-counts[text], str(text)))
    liked = [text for text in ranked if _event(str(text)) not in NOT_LIKED] or ranked
    shown = ", ".join(f"{text} {counts[text] / column.rows:.1%}" for text in ranked[:8])
    share = sum(counts[text] for text in liked) / column.rows
    return liked, share, f"which events count as positives? There are {shown}."
