"""Sort the other columns: features of users and items, context of a row, and what to leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from twotower.pipelines.errors import ConfigError
from twotower.pipelines.init.facts import MIN_REPEATED, Facts, constancy
from twotower.pipelines.init.names import has_role, id_evidence

Kind = Literal["categorical", "numeric", "multi_hot", "text", "vector"]
SURE = 0.999
"""A column of the interactions with at least this `constancy` is decided by the id."""
NEARLY = 0.9
MAX_NULLS = 0.5
MAX_SHARE = 0.5
"""Different values per user or item above which a category tells hardly more than the id."""
FEW_NUMBERS = 20
"""Maximum number of different whole numbers that count as categories, such as years."""
MAX_CONTEXT = 1_000
TEXT_WORDS = 2.0
"""Texts with more words than this, on average, are texts and not categories."""
FREE_TEXT = 5.0
MAX_LENGTH = 20
RESERVED = {"user_id", "item_id", "history"}
"""Names of our own columns."""


@dataclass(frozen=True)
class Feature:
    """A column that a tower may read.

    Attributes
    ----------
    name : str
    kind : str
        categorical, numeric, multi_hot, text or vector.
    length : int
        Values or words of a row that are kept, for multi_hot and text; of a vector, its numbers.
    differing : bool
        Whether it is read from the interactions and has several values for some ids.
    """

    name: str
    kind: Kind
    length: int = 0
    differing: bool = False


@dataclass
class Features:
    """What the columns are used for that are neither id nor time nor value.

    Attributes
    ----------
    user, item : list of Feature
    context : list of Feature
        Columns that vary from row to row. They are proposed and not used.
    show : list of str
        Columns of the items that people read, such as a title.
    files : dict of str to Path
        The .npy files of vectors.
    left_out : dict of str to str
        Other columns and the reason.
    questions : list of str
    """

    user: list[Feature] = field(default_factory=list)
    item: list[Feature] = field(default_factory=list)
    context: list[Feature] = field(default_factory=list)
    show: list[str] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    questions: list[str] = field(default_factory=list)

    def of(self, role: str) -> list[Feature]:
        """The features of a role, "user" or "item"."""
        return self.user if role == "user" else self.item

    def knows(self, name: str) -> bool:
        """Whether a column has this name, with a use or without one."""
        used = [each.name for each in (*self.user, *self.item, *self.context)]
        return name in {*used, *self.show, *self.left_out, *RESERVED}


def find_features(
    facts: Mapping[str, Facts],
    ids: Mapping[str, str],
    sides: Mapping[str, tuple[str, Mapping[str, Facts]]],
    seconds: np.ndarray | None,
    taken: set[str],
) -> Features:
    """Sort the columns that have no role yet.

    Parameters
    ----------
    facts : mapping of str to Facts
        The columns of the interactions.
    ids : mapping of str to str
        The columns of the ids by role.
    sides : mapping of str to (str, mapping)
        By role: the id column and the columns of the table of users or items, if there is one.
    seconds : ndarray of int64, shape (n,), optional
        The times of the interactions.
    taken : set of str
        Columns with a role.

    Returns
    -------
    Features
    """
    found = Features()
    used = {*taken, *ids.values(), *RESERVED}
    for role, (key, columns) in sorted(sides.items()):  # the items first
        for name, column in columns.items():
            if name == key:
                continue
            if name in used:
                found.left_out[f"{name} of the {role}s file"] = (
                    "a column of this name has another use; rename it"
                )
            else:
                _sort_side(found, role, column, columns[key].distinct)
                used.add(name)
    known = {feature.name for role in ids for feature in found.of(role)} | set(found.left_out)
    for name, column in facts.items():
        if name not in known | RESERVED and name not in taken and name not in found.show:
            _sort_row(found, column, facts, ids, seconds)
    return found


def only(
    found: Features, role: str, names: Sequence[str], facts: Mapping[str, Facts], where: str
) -> None:
    """Use these columns as the features of a role, and no others.

    Raises
    ------
    ConfigError
        If there is no such column, or its values cannot be a feature.
    """
    guessed = {feature.name: feature for feature in found.of(role)}
    chosen = []
    for name in names:
        if name not in facts:
            raise ConfigError(
                f"{where}: no column {name!r} ({role}_features); the columns are {', '.join(facts)}"
            )
        kind, length = _kind(facts[name])
        if kind is None:
            raise ConfigError(
                f"column {name!r}: lists of lists, and lists of numbers of different lengths, "
                "cannot be a feature"
            )
        if kind == "vector" and name not in guessed:
            raise ConfigError(
                f"column {name!r}: vectors must be in the table of the {role}s, one row per {role}"
            )
        # A column of the interactions that the guess left out may differ between the rows of an id.
        chosen.append(guessed.pop(name, Feature(name, kind, length, differing=True)))
        found.left_out.pop(name, None)
        found.context = [each for each in found.context if each.name != name]
    found.left_out.update({name: f"not among the {role}_features" for name in guessed})
    found.of(role)[:] = chosen


def _sort_side(found: Features, role: str, column: Facts, ids: int) -> None:
    """Sort a column of the table of users or items."""
    if role == "item" and has_role(column.name, "available"):
        found.left_out[column.name] = (
            "to withdraw items by it, name it in ingest.files: available (see docs/data.md)"
        )
        return
    if reason := _useless(column) or _personal(column):
        found.left_out[column.name] = reason
        return
    _add(found, role, column, ids, differing=False)


def _sort_row(
    found: Features,
    column: Facts,
    facts: Mapping[str, Facts],
    ids: Mapping[str, str],
    seconds: np.ndarray | None,
) -> None:
    """Sort a column of the interactions: it belongs to the item, the user or the row."""
    name = column.name
    if reason := _useless(column) or _personal(column):
        found.left_out[name] = reason
        return
    if column.distinct == column.rows - column.nulls and _numbers_rows(column):
        found.left_out[name] = "another value in each row, such as a number of rows or orders"
        return
    shares = {role: constancy(column.codes, facts[owner].codes) for role, owner in ids.items()}
    role = max(("item", "user"), key=lambda each: (round(shares[each][0], 3), each == "item"))
    share, count = shares[role]
    if share < NEARLY or count < MIN_REPEATED:
        _sort_context(found, column, facts[ids["user"]], seconds)
        return
    owner = facts[ids[role]]
    if id_evidence(name, role) > 1 and column.distinct >= owner.distinct:
        found.left_out[name] = f"another id of the {role}"
        return
    both = all(part >= SURE and number >= MIN_REPEATED for part, number in shares.values())
    if both:
        other = "user" if role == "item" else "item"
        found.questions.append(
            f"is {name} a feature of the {role} or of the {other}? It is the same in all rows of "
            "either."
        )
    _add(found, role, column, owner.distinct, differing=share < 1, in_log=True)


def _numbers_rows(column: Facts) -> bool:
    """Whether different values may be numbers of rows: they are no measurements and no texts."""
    return column.words <= TEXT_WORDS and (column.numbers is None or column.is_whole)


def _sort_context(found: Features, column: Facts, user: Facts, seconds: np.ndarray | None) -> None:
    """Sort a column that varies from row to row."""
    name = column.name
    if column.words >= FREE_TEXT:
        found.left_out[name] = "a free text in each row"
    elif column.is_list:
        found.left_out[name] = "a list in each row"
    elif _is_order(column, user, seconds):
        found.left_out[name] = "a number of orders: one user and one time each"
    elif column.numbers is not None and not (column.is_whole and column.distinct <= FEW_NUMBERS):
        found.context.append(Feature(name, "numeric"))
    elif column.distinct <= MAX_CONTEXT:
        found.context.append(Feature(name, "categorical"))
    else:
        found.left_out[name] = f"varies from row to row, with {column.distinct:,} values"


def _is_order(column: Facts, user: Facts, seconds: np.ndarray | None) -> bool:
    """Whether the values are numbers of orders: each belongs to one user, and there are many."""
    if column.distinct < max(user.distinct, 10) or not (column.is_text or column.is_whole):
        return False
    share, count = constancy(user.codes, column.codes)
    if has_role(column.name, "order"):
        return True
    if count < MIN_REPEATED or share < SURE or seconds is None:
        return False
    times = np.unique(seconds, return_inverse=True)[1]
    return constancy(times, column.codes)[0] >= SURE


def _useless(column: Facts) -> str | None:
    """Say why no tower can learn from the column, or None."""
    if column.distinct == 0:
        return "no values"
    if column.nulls > MAX_NULLS * column.rows:
        return f"{column.nulls / column.rows:.0%} of the values are missing"
    if column.distinct == 1 and not column.is_list:
        return f"the same value in all rows ({column.examples(1)})"
    if pa.types.is_uint64(column.values.type):
        return "whole numbers beyond 2**63 - 1, which only ids may be; store them as text"
    if column.has_decimal_comma:
        return "numbers with a decimal comma, which are texts here; write 12.50, not 12,50"
    if column.is_link:
        return "addresses of web pages or images"
    if column.is_time:
        return "a time"
    return None


def _personal(column: Facts) -> str | None:
    """Say that the column has personal data, which a model does not need, or None."""
    if column.personal:
        return f"personal data ({column.personal})"
    if has_role(column.name, "personal") and column.is_text and column.distinct > FEW_NUMBERS:
        return "personal data, by its name"
    return None


def _add(
    found: Features, role: str, column: Facts, ids: int, *, differing: bool, in_log: bool = False
) -> None:
    """Add a feature of users or items as the kind that its values have."""
    name = column.name
    if role == "item" and has_role(name, "title") and column.is_text:
        found.show.append(name)
    kind, length = _kind(column)
    if role == "user" and has_role(name, "title") and column.distinct > MAX_SHARE * ids:
        found.left_out[name] = "personal data (names)"
    elif kind is None:
        found.left_out[name] = "lists of lists, or lists of numbers of different lengths"
    elif kind == "vector" and in_log:
        found.left_out[name] = f"vectors; put them in a table with one row per {role}"
    elif kind == "text" and role == "user":
        found.left_out[name] = "texts of users"
    elif kind == "categorical" and column.distinct > max(MAX_SHARE * ids, 2):
        if name not in found.show:
            found.left_out[name] = (
                f"almost one value per {role} ({column.distinct:,} of {ids:,}): no more than the id"
            )
    else:
        found.of(role).append(Feature(name, kind, length, differing))


def _kind(column: Facts) -> tuple[Kind | None, int]:
    if column.is_list:
        value = column.values.type.value_type
        whole = pa.types.is_integer(value) or pa.types.is_string(value)
        lengths = [len(each) for each in column.values[:10_000].to_pylist() if each]
        if pa.types.is_floating(value) and len(set(lengths)) == 1 and lengths[0] > 1:
            return "vector", lengths[0]
        return ("multi_hot", _length(lengths)) if whole and lengths else (None, 0)
    if column.numbers is not None:
        few = column.is_whole and column.distinct <= FEW_NUMBERS
        code = column.is_whole and id_evidence(column.name, "item") > 0
        return ("categorical" if few or code else "numeric"), 0
    if mark := column.separator:
        return "text", _length([len(text.replace(mark, " ").split()) for text in column.texts])
    if column.words > TEXT_WORDS and column.distinct > FEW_NUMBERS:
        return "text", _length([len(text.split()) for text in column.texts])
    return "categorical", 0


def _length(lengths: list[int]) -> int:
    """Return a length that 95 % of the lists do not exceed."""
    return int(min(max(np.ceil(np.percentile(lengths, 95)), 1), MAX_LENGTH))
