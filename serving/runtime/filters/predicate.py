"""The parameter `where`: a predicate over columns of the items, in the language of MongoDB.

    {"genres": {"$in": ["Drama", "War"]}, "year": {"$gte": 1990}, "$not": {"in_stock": false}}

All entries of an object must hold. An entry is a column with a value, which means equality, or with
an object of operators. A column of lists equals a value that is in the list. An item without a
value satisfies no comparison, so that `$ne`, `$nin` and `$not` hold for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ..errors import RequestError

WHERE = "where"
"""The name of the request parameter."""
LIST = "[]"
"""The end of the kind of a column of lists."""
NUMBERS = ("INT64", "UINT64", "FP64")
EXPECTED = {"BOOL": "true or false", "BYTES": "text", **dict.fromkeys(NUMBERS, "a number")}
AND, OR, NOT = "$and", "$or", "$not"
EQ, NE, GT, GTE, LT, LTE, IN, NIN, ALL, EXISTS = (
    "$eq",
    "$ne",
    "$gt",
    "$gte",
    "$lt",
    "$lte",
    "$in",
    "$nin",
    "$all",
    "$exists",
)
COMPARISONS = (GT, GTE, LT, LTE)
OPERATORS = (EQ, NE, *COMPARISONS, IN, NIN, ALL, EXISTS)
MAX_LENGTH = 1 << 14
"""Longest text of a predicate, in characters."""
MAX_CONDITIONS = 100
"""Largest number of conditions and connectives: each takes a pass over the items."""
MAX_SHOWN = 40
"""Characters of a value in a message."""


@dataclass(frozen=True)
class Predicate:
    """A condition on a column, or a connective of other predicates.

    Attributes
    ----------
    operator : str
        AND, OR or NOT with `parts`; one of OPERATORS with `column` and `value`.
    parts : tuple of Predicate
    column : str
    value : object
        A tuple for IN, NIN and ALL.
    """

    operator: str
    parts: tuple[Predicate, ...] = ()
    column: str = ""
    value: Any = None


def parse(text: str, columns: Mapping[str, str]) -> Predicate:
    """Return the predicate that a text in JSON holds.

    Parameters
    ----------
    text : str
    columns : mapping of str to str
        The columns that a predicate may name, with their kind: BOOL, BYTES (text), INT64, UINT64 or
        FP64, followed by LIST if each item has a list of such values.

    Raises
    ------
    RequestError
        If the text is not a predicate; the message names the column, the operator or the value.
    """
    if len(text) > MAX_LENGTH:
        _refuse(f"it has {len(text):,} characters; the limit is {MAX_LENGTH:,}")
    try:
        tree = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_not_finite)
        predicate = _object(tree, columns)
        count = sum(1 for _ in _all(predicate))
    except ValueError as error:
        _refuse(f"it is not JSON ({error})")
    except RecursionError:
        _refuse("it is nested too deeply")
    if count > MAX_CONDITIONS:
        _refuse(f"it has {count} conditions; the limit is {MAX_CONDITIONS}")
    return predicate


def _object(tree: Any, columns: Mapping[str, str]) -> Predicate:
    if not isinstance(tree, dict):
        _refuse(f'{_shown(tree)}: expected an object such as {{"year": {{"$gte": 1990}}}}')
    parts = [part for name, value in tree.items() for part in _entry(name, value, columns)]
    return parts[0] if len(parts) == 1 else Predicate(AND, tuple(parts))


def _entry(name: str, value: Any, columns: Mapping[str, str]) -> Iterator[Predicate]:
    """Yield the predicates of an entry of an object."""
    if name in (AND, OR):
        if not isinstance(value, list) or not value:
            _refuse(f"{name} {_shown(value)}: expected a list of predicates")
        yield Predicate(name, tuple(_object(each, columns) for each in value))
    elif name == NOT:
        yield Predicate(NOT, (_object(value, columns),))
    elif name in columns:
        yield from _conditions(name, columns[name], value)
    elif name.startswith("$"):
        _refuse(f"operator {_named(name)} is unknown here; expected {AND}, {OR}, {NOT} or a column")
    elif columns:
        _refuse(f"column {_named(name)} is unknown; this model filters by {', '.join(columns)}")
    else:
        _refuse("this model filters by no columns; serving.filters names some at export")


def _conditions(column: str, kind: str, value: Any) -> Iterator[Predicate]:
    """Yield the conditions on a column."""
    operators = value if isinstance(value, dict) else {EQ: value}
    if not operators:
        _refuse(f"column '{column}' has no condition; expected one of {', '.join(OPERATORS)}")
    scalar = kind.removesuffix(LIST)
    for operator, operand in operators.items():
        where = f"column '{column}', {operator[:MAX_SHOWN]}"
        if operator not in OPERATORS:
            _refuse(f"{where}: unknown operator; expected one of {', '.join(OPERATORS)}")
        if operator == ALL and scalar == kind:
            _refuse(f"{where}: this is for columns of lists; use {IN}")
        if operator in COMPARISONS and scalar == "BOOL":
            _refuse(f"{where}: booleans have no order; use {EQ}")
        if operator == EXISTS:
            _check(where, "BOOL", operand)
        elif operator in (IN, NIN, ALL):
            if not isinstance(operand, list) or not operand:
                _refuse(f"{where} {_shown(operand)}: expected a list of values")
            for each in operand:
                _check(where, scalar, each)
            operand = tuple(operand)
        else:
            _check(where, scalar, operand)
        yield Predicate(operator, column=column, value=operand)


def _check(where: str, kind: str, value: Any) -> None:
    """Check that a value has the kind of its column."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = {"BOOL": isinstance(value, bool), "BYTES": isinstance(value, str)}.get(kind, is_number)
    if not fits:
        advice = f"; {EXISTS} tells whether there is a value" if value is None else ""
        _refuse(f"{where} {_shown(value)}: expected {EXPECTED[kind]}{advice}")


def _all(predicate: Predicate) -> Iterator[Predicate]:
    yield predicate
    for part in predicate.parts:
        yield from _all(part)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        name = next(name for name in names if names.count(name) > 1)
        _refuse(f"{_named(name)} occurs twice in an object; use {AND}")
    return made


def _not_finite(constant: str) -> NoReturn:
    _refuse(f"{constant} is no number of JSON")


def _named(name: str) -> str:
    return f"'{name}'" if len(name) <= MAX_SHOWN else f"'{name[:MAX_SHOWN]} ...'"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ..."


def _refuse(problem: str) -> NoReturn:
    raise RequestError(f"parameter '{WHERE}': {problem}")
