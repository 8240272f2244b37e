"""Find the columns with the ids of the users and of the items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from twotower.pipelines.errors import ConfigError
from twotower.pipelines.init.facts import MIN_REPEATED, Facts, constancy, overlap
from twotower.pipelines.init.names import ATTRIBUTES, has_role, id_evidence, tokens

ROLES = ("user", "item")
CLOSE = 0.5
"""Evidence that differs by no more than this is similar."""
MIN_OVERLAP = 0.5
NAMELESS_OVERLAP = 0.8
MAX_SHOWN = 12
DECIDED = 0.9
"""A column whose `constancy` is at least this belongs to the id."""


@dataclass(frozen=True)
class Side:
    """How the interactions are joined with the table of users or of items.

    Attributes
    ----------
    key : str
        The id column of that table.
    overlap : float
        Share of the different ids in the interactions that have a row there.
    """

    key: str
    overlap: float


@dataclass
class Ids:
    """The id columns that were found.

    Attributes
    ----------
    columns : dict of str to str
        The column of the interactions by role, "user" and "item".
    sides : dict of str to Side
        By role, for those with a table of their own.
    questions : dict of str to list of str
        By role, what is not clear.
    """

    columns: dict[str, str] = field(default_factory=dict)
    sides: dict[str, Side] = field(default_factory=dict)
    questions: dict[str, list[str]] = field(default_factory=dict)


def find_ids(
    facts: Mapping[str, Facts],
    named: Mapping[str, str | None],
    sides: Mapping[str, Mapping[str, Facts]],
    where: str,
) -> Ids:
    """Find the id columns of the interactions and of the tables of users and items.

    Parameters
    ----------
    facts : mapping of str to Facts
        The columns of the interactions.
    named : mapping of str to str or None
        By role, the column if it is known.
    sides : mapping of str to mapping
        By role, the columns of the table of users or items, if there is one.
    where : str
        The file, for messages.

    Returns
    -------
    Ids

    Raises
    ------
    ConfigError
        If a column cannot be told. The message names the candidates and the options to use.
    """
    ids = Ids()
    for role in ROLES:
        if (name := named.get(role)) is not None:
            ids.columns[role] = check_name(name, facts, where, role)
            if not _can_be_ids(facts[name]):
                raise ConfigError(
                    f"{where}: column {name!r} cannot have the ids of the {role}s, because its "
                    f"values are such as {facts[name].examples()}; expected whole numbers or texts"
                )
    for role in ROLES:
        if role not in ids.columns:
            _find_by_name(role, facts, sides.get(role), ids)
    for role in ROLES:
        if role not in ids.columns:
            _find_the_rest(role, facts, ids, where)
    if ids.columns["user"] == ids.columns["item"]:
        raise ConfigError(
            f"{where}: user and item are both column {ids.columns['user']!r}; name another one"
        )
    for role in ROLES:
        if role in sides:
            side = _join(facts[ids.columns[role]], sides[role])
            if side is None:
                raise ConfigError(
                    f"no column of the {role}s file has the values of column "
                    f"{ids.columns[role]!r} in {where}, such as "
                    f"{facts[ids.columns[role]].examples()}; one column must have each {role}'s id"
                )
            ids.sides[role] = side
    return ids


def check_name(name: str, facts: Mapping[str, Facts], where: str, role: str) -> str:
    """Return `name` if there is such a column; ConfigError with the columns otherwise."""
    if name not in facts:
        raise ConfigError(
            f"{where}: no column {name!r} (--{role}); the columns are {shortened(facts, MAX_SHOWN)}"
        )
    return name


def shortened(names: Iterable[str], most: int) -> str:
    """Join up to `most` names, and count the others."""
    names = list(names)
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _find_by_name(
    role: str, facts: Mapping[str, Facts], side: Mapping[str, Facts] | None, ids: Ids
) -> None:
    """Choose by names, and by the values that the table of users or items has."""
    scores: dict[str, float] = {}
    for name, column in facts.items():
        if name in ids.columns.values() or not _can_be_ids(column):
            continue
        score = id_evidence(name, role)
        joined = _join(column, side) if side is not None else None
        if joined is not None and (score or joined.overlap >= NAMELESS_OVERLAP):
            score += 2 * joined.overlap
        if score and column.distinct == column.rows:
            score = max(score - 2.0, 0.1)  # it may number the rows
        if score:
            scores[name] = score
    ranked = sorted(scores, key=lambda name: -scores[name])
    if not ranked or scores[ranked[0]] < 1.0:
        return
    best = ranked[0]
    others = [each for each in ranked[1:] if scores[best] - scores[each] <= CLOSE]
    best, others = _settle(role, best, others, facts)
    ids.columns[role] = best
    if others:
        shown = ", ".join(f"{each} ({facts[each].distinct:,} different)" for each in others)
        ids.questions[role] = [
            f"is {best} ({facts[best].distinct:,} different) the {role}? It could also be {shown}."
        ]


def _settle(
    role: str, best: str, others: list[str], facts: Mapping[str, Facts]
) -> tuple[str, list[str]]:
    """Choose between columns with similar names by how their values depend on each other.

    Returns
    -------
    best : str
    others : list of str
        Those that are still as likely.
    """
    coarser = [
        each
        for each in others
        if _belongs(facts[each], facts[best]) and facts[each].distinct < facts[best].distinct
    ]
    if role == "user" and coarser:
        # Shops give an order its own customer; the person is what several of them share.
        return coarser[0], [each for each in (best, *others) if each != coarser[0]]
    # What is the same in all rows of an item is a feature of it.
    return best, [each for each in others if each not in coarser]


def _can_be_ids(column: Facts) -> bool:
    if column.is_list or column.is_time or column.distinct == 0:
        return False
    return column.is_whole if column.numbers is not None else column.words < 6


def _find_the_rest(role: str, facts: Mapping[str, Facts], ids: Ids, where: str) -> None:
    """Choose the only column left that can have ids, or refuse."""
    left = [
        name for name in facts if name not in ids.columns.values() and _looks_like_ids(facts[name])
    ]
    for other in ids.columns.values():
        left = [name for name in left if not _belongs(facts[name], facts[other])]
    finest = [
        name
        for name in left
        if not any(
            _belongs(facts[name], facts[other]) and facts[name].distinct < facts[other].distinct
            for other in left
            if other != name
        )
    ]
    hinted = [name for name in finest if has_role(name, role)]
    if len(hinted) == 1:
        ids.columns[role] = hinted[0]
        ids.questions[role] = [f"is {hinted[0]} the {role}? Its name may mean something else."]
        return
    if len(finest) == 1 and ids.columns:
        ids.columns[role] = finest[0]
        ids.questions[role] = [
            f"is {finest[0]} the {role}? Its name does not say so; no other column can be it."
        ]
        return
    missing = " and ".join(f"{each}s" for each in ROLES if each not in ids.columns)
    options = " ".join(f"--{each} COLUMN" for each in ROLES if each not in ids.columns)
    if not left:
        raise ConfigError(
            f"{where}: no column with the ids of the {missing} was found, so this is perhaps not "
            f"a table of interactions; the columns are {shortened(facts, MAX_SHOWN)}. "
            f"Name it: {options}"
        )
    shown = "; ".join(
        f"{name} ({facts[name].distinct:,} different, such as {facts[name].examples(2)})"
        for name in left[:6]
    )
    raise ConfigError(
        f"{where}: which column has the ids of the {missing} is not clear. It may be {shown}. "
        f"Name it: {options}"
    )


def _looks_like_ids(column: Facts) -> bool:
    """Whether a column without a telling name may have ids: many values, which repeat."""
    if not _can_be_ids(column) or column.distinct == column.rows or column.nulls > column.rows / 2:
        return False
    name = column.name
    roles = ("time", "rating", "count", "binary", "event", "money", "order")
    if any(has_role(name, role) for role in roles):
        return False
    if any(token in ATTRIBUTES for token in tokens(name)) and column.words >= 1.5:
        return False
    least = 20 if column.numbers is not None else 10
    return column.distinct > min(least, column.rows / 4)


def _belongs(column: Facts, owner: Facts) -> bool:
    share, count = constancy(column.codes, owner.codes)
    return count >= MIN_REPEATED and share >= DECIDED


def _join(column: Facts, side: Mapping[str, Facts]) -> Side | None:
    """Find the id column of a table of users or items: the one with the most common values."""
    best: Side | None = None
    same_first = sorted(side, key=lambda name: name != column.name)
    for name in same_first:
        other = side[name]
        # A little less than unique, because exact doubles of rows are allowed.
        if not _can_be_ids(other) or other.distinct < 0.5 * other.rows:
            continue
        share = overlap(column, other)
        if share >= MIN_OVERLAP and (best is None or share > best.overlap + 0.05):
            best = Side(key=name, overlap=share)
    return best
