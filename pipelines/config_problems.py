"""Messages about mistakes in a configuration: unknown keys, missing sections, converted values."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel
from pydantic.fields import SHAPE_SINGLETON


def explained(model: type[BaseModel], tree: Any, problem: Mapping[str, Any]) -> str:
    """Return the line that describes a problem found by pydantic."""
    # Problems of a section as a whole are reported for its "__root__".
    path = tuple(part for part in problem["loc"] if part != "__root__")
    text = problem["msg"]
    if problem["type"] == "value_error.extra":
        text = f"no such key; {_suggestions(model, path)}"
    elif problem["type"] == "type_error.dict":
        for part in path:
            tree = tree[part]
        text = f"expected a section with keys, found {reprlib.repr(tree)}"
        if known := _fields(model, path):
            text += f"; known here: {', '.join(known)}"
    elif problem["type"] == "type_error.none.not_allowed":
        text = "no value; give it one, or leave it out"
    return f"{'.'.join(map(str, path))}: {text}" if path else text


def _suggestions(model: type[BaseModel], path: tuple[str | int, ...]) -> str:
    """Return a phrase with the keys most similar to the unknown `path`, and all in its section."""
    *section, key = map(str, path)
    known = _fields(model, path[:-1])
    near = [".".join((*section, name)) for name in get_close_matches(key, known)]
    # A key may exist in another section: `epochs` is `training.epochs`.
    near += [name for name in _keys(model) if name.endswith(f".{key}") and name not in near]
    question = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{question}known here: {', '.join(known)}"


def _fields(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """Return the keys of the section at `path`."""
    parts = iter(path)
    for part in parts:
        field = model.__fields__[str(part)]
        model = field.type_
        if field.shape != SHAPE_SINGLETON:
            next(parts, None)  # the index in the list, or the key in the mapping
    return sorted(getattr(model, "__fields__", ()))


def _keys(model: type[BaseModel]) -> Iterator[str]:
    """Yield the keys of all sections as "section.key"."""
    for name, field in model.__fields__.items():
        yield name
        if field.shape == SHAPE_SINGLETON and hasattr(field.type_, "__fields__"):
            yield from (f"{name}.{key}" for key in _keys(field.type_))


def keys_not_text(tree: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield a line for each key that YAML does not read as text."""
    if isinstance(tree, list):
        for place, value in enumerate(tree):
            yield from keys_not_text(value, (*path, str(place)))
    if not isinstance(tree, dict):
        return
    for key, value in tree.items():
        if isinstance(key, str):
            yield from keys_not_text(value, (*path, key))
        else:
            section = f"{'.'.join(path)}: " if path else ""
            yield f"{section}YAML does not read the key {key!r} as text; put it in quotes: '{key}'"


def converted(tree: Any, parsed: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield a line for each value that pydantic converted: 2.9 to 2, or `no` to "False"."""
    if isinstance(parsed, BaseModel):
        parsed = dict(parsed)
    if isinstance(tree, dict) and isinstance(parsed, dict):
        for key in tree.keys() & parsed.keys():
            yield from converted(tree[key], parsed[key], (*path, key))
    elif isinstance(tree, list | tuple) and isinstance(parsed, list | tuple):
        for place, (value, found) in enumerate(zip(tree, parsed, strict=False)):
            yield from converted(value, found, (*path, str(place)))
    elif type(parsed) is int and (
        isinstance(tree, bool) or (isinstance(tree, float) and tree != parsed)
    ):
        yield f"{'.'.join(path)}: {tree!r} is not a whole number"
    elif isinstance(parsed, str) and isinstance(tree, bool | float):
        yield f"{'.'.join(path)}: YAML does not read {tree!r} as text; put it in quotes"
