"""The reference of all settings, docs/configuration.md, generated from the configuration classes.

`make docs-reference` writes the page.
"""

from __future__ import annotations

import json
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import SHAPE_LIST, SHAPE_SINGLETON, ModelField

from twotower.pipelines.config import Config
from twotower.pipelines.experiments.comparison import CompareConfig
from twotower.pipelines.experiments.tune import TuneConfig
from twotower.pipelines.run import write_atomically
from twotower.pipelines.verdict.recipes import Recipe, load_recipe, names

INTRODUCTION = """\
# Configuration

Every setting of a run, generated from the code by `make docs-reference`. A configuration is a YAML
file with these sections; the folder `configs/` has one per data set. `--set section.key=value`
overrides a setting on the command line, for example `--set training.epochs=3`. An unknown key or
an invalid value is an error that names it. `null` means no value.
"""
COMPARE = """\
The files that `twotower compare` reads; the folder `configs/compare/` has examples.
"""
TUNE = """\
The files that `twotower tune` reads; the folder `configs/tune/` has examples.
"""
RECIPES = """\
The groups of settings in `configs/recipes/`, for `twotower run --recipe`. The recipe `auto` tries
those that are for data like the run's.

| recipe | towers | data |
|---|---|---|"""
SCALARS = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "path"}
HEADER = "| key | type | default | range or choices | description |\n|---|---|---|---|---|"
UNLIMITED = 1e300  # a bound that only excludes infinity
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def page() -> str:
    """Return the text of docs/configuration.md."""
    parts = [INTRODUCTION, *_sections(Config, "", 2)]
    parts += ["## Recipes\n", "\n".join([RECIPES, *_recipes()]) + "\n"]
    parts += ["### Files of recipes\n", *_sections(Recipe, "", 4)]
    parts += ["## Files of `twotower compare`\n", COMPARE, *_sections(CompareConfig, "", 3)]
    parts += ["## Files of `twotower tune`\n", TUNE, *_sections(TuneConfig, "", 3)]
    return "\n".join(parts)


def _recipes() -> Iterator[str]:
    """Yield a row for each recipe."""
    for name in names():
        recipe = load_recipe(name)
        yield f"| `{name}` | {_sentence(recipe.about)} | {str(recipe.when) or 'all'} |"


def _sections(model: type[BaseModel], prefix: str, level: int) -> Iterator[str]:
    """Yield a table of the settings of `model`, then the sections inside it."""
    settings: list[ModelField] = []
    sections: list[ModelField] = []
    for field in model.__fields__.values():
        (sections if is_section(field) else settings).append(field)
    if settings:
        lines = [_row(field, prefix) for field in settings]
        yield "\n".join([HEADER, *lines]) + "\n"
    for field in sections:
        key = f"{prefix}{field.name}"
        if field.shape != SHAPE_SINGLETON:
            key += "[]" if field.shape == SHAPE_LIST else ".<name>"
        yield f"{'#' * min(level, 4)} `{key}`\n"
        yield _sentence(_section_description(field)) + "\n"
        yield from _sections(field.type_, f"{key}.", level + 1)


def is_section(field: ModelField) -> bool:
    """Whether a field has settings of its own."""
    # In Python 3.10 list[str] is an instance of type, but no class.
    is_class = isinstance(field.type_, type) and typing.get_origin(field.type_) is None
    return is_class and issubclass(field.type_, BaseModel)


def _section_description(field: ModelField) -> str:
    text = field.field_info.description or field.type_.__doc__ or ""
    if field.allow_none and field.default is None:
        return f"{_sentence(text)} Optional: leave the section out to switch it off."
    return f"{_sentence(text)} Required." if field.required else text


def _row(field: ModelField, prefix: str) -> str:
    cells = (
        f"`{prefix}{field.name}`",
        _type(field.outer_type_) + (" or null" if field.allow_none else ""),
        "required" if field.required else f"`{_default(field.default)}`",
        _range(field),
        _sentence(field.field_info.description or ""),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _sentence(text: str) -> str:
    """Return `text` with a capital letter first and a period last."""
    text = " ".join(text.split())
    if text and not text.endswith((".", "?", "!")):
        text += "."
    first = text.partition(" ")[0]
    # A value or a formula at the beginning, such as "lr:" or "1 / n", stays as it is.
    return text[:1].upper() + text[1:] if first.isalpha() else text


def _type(kind: Any) -> str:
    """Return the name of a type as users write values of it in YAML."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "choice"
    if origin in (typing.Union, types.UnionType):
        names = dict.fromkeys(_type(each) for each in arguments if each is not type(None))
        if "number" in names:
            names.pop("integer", None)
        return " or ".join(names)
    if origin is dict:
        return f"mapping of {_type(arguments[0])} to {_type(arguments[1])}"
    if origin is tuple:
        return f"list of {len(arguments)} {_type(arguments[0])}s"
    if origin is list and arguments[0] is Any:
        return "list"
    if origin is list:
        return f"list of {_type(arguments[0])}s"
    if not isinstance(kind, type) or origin is not None:
        return "any value"
    if hasattr(kind, "item_type"):  # a list with constraints
        return f"list of {_type(kind.item_type)}s"
    scalars = (name for scalar, name in SCALARS.items() if issubclass(kind, scalar))
    return next(scalars, "any value")


def _default(value: Any) -> str:
    """Return a default as it is written in YAML."""
    return value if isinstance(value, str) and value else json.dumps(value)


def _range(field: ModelField) -> str:
    """Return the bounds or choices of the values, or of the elements of a list."""
    kind = field.type_
    if typing.get_origin(kind) is tuple:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(kind))
    limits = [
        f"{sign} {_number(limit)}"
        for name, sign in BOUNDS.items()
        if (limit := getattr(kind, name, None)) is not None and abs(limit) < UNLIMITED
    ]
    return ", ".join(limits)


def _number(value: float) -> str:
    whole = float(value).is_integer() and abs(value) < 1e12
    return f"{int(value):,}" if whole else f"{value:g}"


def main(path: Path) -> None:
    """Write the page to `path`."""
    write_atomically(path, page())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
