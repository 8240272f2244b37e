"""Random predicates, and what they mean, item by item in plain Python."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Item = Mapping[str, Any]
Holds = Callable[[Item], bool]
COMPARISONS = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def random_predicate(
    draw: random.Random, items: Sequence[Item], depth: int = 2
) -> tuple[dict[str, Any], Holds]:
    """Draw a predicate, and the function that says for which items it holds.

    Parameters
    ----------
    draw : Random
    items : sequence of mapping
        The columns of each item: numbers, booleans, texts, lists of them, or None. Values to
        compare with are those of drawn items.
    depth : int
        Largest depth of connectives.
    """
    kind = draw.choice(["$and", "$or", "$not", "conditions"]) if depth else "conditions"
    if kind == "$not":
        tree, holds = random_predicate(draw, items, depth - 1)
        return {"$not": tree}, lambda item: not holds(item)
    if kind != "conditions":
        parts = [random_predicate(draw, items, depth - 1) for _ in range(draw.randint(1, 3))]
        join = all if kind == "$and" else any
        return (
            {kind: [tree for tree, _ in parts]},
            lambda item: join(holds(item) for _, holds in parts),
        )
    columns = draw.sample(sorted(items[0]), draw.randint(1, 2))
    conditions = {column: _condition(draw, items, column) for column in columns}
    return (
        {column: tree for column, (tree, _) in conditions.items()},
        lambda item: all(holds(item) for _, holds in conditions.values()),
    )


def _condition(draw: random.Random, items: Sequence[Item], column: str) -> tuple[Any, Holds]:
    """Draw a condition on a column, and the function that says for which items it holds."""
    given = [value for item in items for value in _values(item[column])]
    is_list = any(isinstance(item[column], (list, tuple)) for item in items)
    value, others = draw.choice(given), draw.choices(given, k=3)
    names = ["", "$eq", "$ne", "$in", "$nin", "$exists"] + ["$all"] * is_list
    names += [] if isinstance(value, bool) else list(COMPARISONS)
    name = draw.choice(names)
    if name in ("", "$eq", "$ne"):
        tree = {name: value} if name else value
        return tree, lambda item: (value in _values(item[column])) != (name == "$ne")
    if name == "$exists":
        expected = draw.random() < 0.5
        return {name: expected}, lambda item: bool(_values(item[column])) == expected
    if name in ("$in", "$nin"):
        return {
            name: others
        }, lambda item: any(each in others for each in _values(item[column])) == (name == "$in")
    if name == "$all":
        pair = others[:2]
        return {name: pair}, lambda item: all(each in _values(item[column]) for each in pair)
    compare = COMPARISONS[name]
    return {name: value}, lambda item: any(compare(each, value) for each in _values(item[column]))


def _values(value: Any) -> list[Any]:
    """The values of a column of an item: of a list, its members; none for None."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return [each for each in value if each is not None]
    return [value]
