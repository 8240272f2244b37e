"""Find the column with the time of the interaction, or else with their order."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.pipelines.errors import ConfigError
from twotower.pipelines.init.facts import MIN_REPEATED, Facts, constancy
from twotower.pipelines.init.ids import DECIDED, check_name
from twotower.pipelines.init.names import ROLES, has_role, tokens, word_set
from twotower.workflows.errors import DataError
from twotower.workflows.profile import FIRST_TIME
from twotower.workflows.sources.columns import Column, Rows, Stored
from twotower.workflows.sources.time_texts import UnclearTime, parse_format, parse_texts
from twotower.workflows.sources.times import as_seconds

SAMPLE = 300
"""Values that must be times before the whole column is read."""
EPOCHS = (946_684_800, 2_208_988_800)
"""The years 2000 to 2040 in seconds: numbers in this range may be times whatever their name is."""
DAYS, DAY_FORMAT = (1990_01_01, 2040_12_31), "%Y%m%d"
MAX_CALENDAR = 60
"""Different values that a number such as the hour or the day of the month may have."""
LATER = word_set("delivered delivery shipped updated modified expires end ended deadline")
"""Words for times after the interaction."""


@dataclass(frozen=True, eq=False)
class Time:
    """The times of the interactions.

    Attributes
    ----------
    column : str
    seconds : ndarray of int64, shape (n,)
        Seconds since 1970; the lowest int64 where there is none.
    format : str or None
        The strptime format, if the values alone do not tell it.
    question : str or None
        What is not clear.
    """

    column: str
    seconds: np.ndarray
    format: str | None = None
    question: str | None = None

    @property
    def is_order(self) -> bool:
        """Whether these are small numbers, which are an order and no times."""
        return bool(self.seconds.max() < FIRST_TIME)


MISSING = np.iinfo(np.int64).min
PLACES = word_set("pos position order sequence seq step")
"""Words for the place of an interaction among those of its user."""


def find_time(
    facts: Mapping[str, Facts], named: str | None, ids: Mapping[str, str], where: str
) -> tuple[Time | None, dict[str, str]]:
    """Find the time of the interaction.

    Parameters
    ----------
    facts : mapping of str to Facts
        The columns of the interactions.
    named : str or None
        The column, if it is known; "none" if there is none.
    ids : mapping of str to str
        The columns of the ids by role.
    where : str
        The file, for messages.

    Returns
    -------
    time : Time or None
    others : dict of str to str
        Other columns with times, and why they are not it.

    Raises
    ------
    ConfigError
        If there is no column `named`, or it has no times.
    """
    if named == "none":
        return None, {}
    if named is not None:
        check_name(named, facts, where, "time")
        found = _read(facts[named])
        if found is None:
            raise ConfigError(
                f"{where}: column {named!r} has no times, but values such as "
                f"{facts[named].examples()}; name another one, or --time none"
            )
        return found, {}
    read: dict[str, Time] = {}
    others: dict[str, str] = {}
    for name, column in facts.items():
        if name in ids.values() or not _may_be_time(column):
            continue
        if (found := _read(column)) is None:
            if has_role(name, "time"):
                others[name] = (
                    f"cannot be read as times: {column.examples(2)}. If it is the time, add it to "
                    "ingest.files: columns (timestamp) and time_format"
                )
            continue
        owners = [role for role in ("user", "item") if _belongs(column, facts[ids[role]])]
        if owners:
            others[name] = f"a time of the {owners[0]}, the same in all its rows"
        else:
            read[name] = found
    if not read:
        return None, others
    best, *rest = sorted(read, key=lambda name: -_evidence(name))
    others.update({name: f"another time; {best} is used" for name in rest})
    chosen = read[best]
    if rest and _evidence(best) - _evidence(rest[0]) < 1:
        text = f"is {best} the time of the interaction? {', '.join(rest)} has times, too."
        text = f"{chosen.question} {text}" if chosen.question else text
        chosen = Time(best, chosen.seconds, chosen.format, text)
    return chosen, others


def find_time_or_order(
    facts: Mapping[str, Facts], named: str | None, ids: Mapping[str, str], where: str
) -> tuple[Time | None, str | None, dict[str, str]]:
    """Find the time of the interaction, or, if there is none, the column with the order.

    See `find_time`, whose small numbers give way to a column that `find_order` finds.

    Returns
    -------
    time : Time or None
    order : str or None
    others : dict of str to str
    """
    time, others = find_time(facts, named, ids, where)
    if time is not None and not time.is_order:
        return time, None, others
    taken = {*ids.values(), *others, *([time.column] if time else [])}
    order = None if named not in (None, "none") else find_order(facts, ids["user"], taken)
    if order is None or time is None:
        return time, order, others
    others[time.column] = f"numbers that order the rows like {order}, which is used"
    return None, order, others


def find_order(facts: Mapping[str, Facts], user: str, taken: Collection[str]) -> str | None:
    """Find the column that orders the interactions of a user where there are no times.

    Parameters
    ----------
    facts : mapping of str to Facts
        The columns of the interactions.
    user : str
        The column of the users.
    taken : collection of str
        Columns that are something else.

    Returns
    -------
    str or None
        A column of whole numbers that is named like a place, and that differs between almost all
        rows of a user.
    """
    users = facts[user].codes
    for name, column in facts.items():
        words = tokens(name)
        if name in taken or not column.is_whole or not words or words[-1] not in PLACES:
            continue
        pairs = np.stack([users, column.codes], axis=1)[(users >= 0) & (column.codes >= 0)]
        if column.distinct > 1 and len(np.unique(pairs, axis=0)) >= DECIDED * len(users):
            return name
    return None


def _belongs(column: Facts, owner: Facts) -> bool:
    share, count = constancy(column.codes, owner.codes)
    return count >= MIN_REPEATED and share >= DECIDED


def _evidence(name: str) -> int:
    found = tokens(name)
    if any(token in LATER for token in found):
        return -1
    return sum(token in ROLES["time"] for token in found[:2]) + (len(found) == 1)


def _may_be_time(column: Facts) -> bool:
    if column.is_time:
        return True
    if column.distinct < 2 or column.is_list or column.is_boolean:
        return False
    if column.is_text and column.texts[0].isdigit():
        return has_role(column.name, "time")
    if column.is_text:
        return column.words < 8 and any(map(str.isdigit, column.texts[0]))
    if column.numbers is None:
        return False
    low, high = column.range
    if has_role(column.name, "time") and not has_role(column.name, "order"):
        return low >= 0 and (column.distinct > MAX_CALENDAR or low >= DAYS[0])
    return column.is_whole and any(
        EPOCHS[0] * unit <= low and high <= EPOCHS[1] * unit for unit in (1, 10**3)
    )


def _read(column: Facts) -> Time | None:
    """Read the whole column as times; None if a value is not one."""
    known = column.codes >= 0
    values = column.values.filter(pa.array(known))
    if not len(values):
        return None
    try:
        if not column.is_text or column.texts[0].isdigit():
            found = as_seconds(_as_column(column, values), on_message=lambda line: None)
            return _of_numbers(column, known, found.to_numpy())
        parse_texts(values[:SAMPLE])
    except UnclearTime as error:
        if not error.formats:
            return None
    except DataError:
        return _read_days(column, known, values)
    try:
        parsed = parse_texts(values)
        # Said in the configuration, so that a day whose values do not show it is read alike.
        wanted = parsed.format if parsed.format and _reads(values, parsed.format) else None
        return Time(column.name, _filled(known, parsed.seconds), wanted)
    except UnclearTime as error:
        return _choose(column, known, values, error.formats) if error.formats else None


def _of_numbers(column: Facts, known: np.ndarray, seconds: np.ndarray) -> Time:
    """Ask whether small numbers are the order of the interactions."""
    question = None
    if seconds.max() < FIRST_TIME:
        low, high = int(seconds.min()), int(seconds.max())
        question = (
            f"are the numbers of {column.name}, {low} to {high}, the order of the interactions? "
            "They are used as such, not as dates."
        )
    return Time(column.name, _filled(known, seconds), None, question)


def _read_days(column: Facts, known: np.ndarray, values: pa.ChunkedArray) -> Time | None:
    """Read numbers, or texts of digits, such as 20240513 as days; None if they are no such."""
    if column.is_text:  # such as those that folders name, date=20240513
        if not all(text.isdigit() and len(text) == 8 for text in column.texts):
            return None
    elif not column.is_whole or not (DAYS[0] <= column.range[0] and column.range[1] <= DAYS[1]):
        return None
    try:
        read = as_seconds(_as_column(column, values), lambda line: None, DAY_FORMAT)
    except DataError:
        return None
    return Time(column.name, _filled(known, read.to_numpy()), DAY_FORMAT)


def _choose(
    column: Facts, known: np.ndarray, values: pa.ChunkedArray, formats: tuple[str, ...]
) -> Time:
    """Choose between day and month first: files are often in the order of time."""
    read = {each: parse_format(values, each).seconds for each in formats}
    ordered = {each: _order(seconds) for each, seconds in read.items()}
    month_first = [each for each in formats if each.index("%m") < each.index("%d")]
    dotted = "." in formats[0].partition("%Y")[0]
    usual = next(each for each in formats if (each in month_first) != dotted)
    best = max(formats, key=lambda each: (round(ordered[each], 1), each == usual))
    other = next(each for each in formats if each != best)
    better = round(ordered[best], 1) > round(ordered[other], 1)
    reason = "the rows are in the order of time then" if better else "a guess"
    shown = pc.drop_null(values)[0].as_py()
    question = (
        f"is {shown!r} read right as {best} ({reason})? Otherwise write {other} as the time_format."
    )
    return Time(column.name, _filled(known, read[best]), best, question)


def _order(seconds: np.ndarray) -> float:
    """Say how far the rows are in the order of time, forwards or backwards: 0 to 1."""
    if len(seconds) < 2 or seconds.min() == seconds.max():
        return 0.0
    return float(abs(np.corrcoef(np.arange(len(seconds)), seconds)[0, 1]))


def _reads(values: pa.ChunkedArray, format: str) -> bool:
    """Whether the format alone reads all values; it does not if they have fractions of seconds."""
    try:
        parse_format(values, format)
    except UnclearTime:
        return False
    return True


def _filled(known: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    filled = np.full(len(known), MISSING)
    filled[known] = seconds
    return filled


def _as_column(column: Facts, values: pa.ChunkedArray) -> Column:
    stored = [Stored(path="", name=column.name, type=column.stored)]
    rows = Rows(places=[str], counts=[len(values)])
    return Column(name=column.name, values=values, stored=stored, rows=rows)
