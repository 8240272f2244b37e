"""Recipes: named groups of settings that fit any data set, in configs/recipes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel, Extra, Field

from twotower.pipelines.config import CONFIGS, as_text, find_config, parse
from twotower.pipelines.verdict.suits import When
from twotower.pipelines.yaml_file import read_yaml

FOLDER = CONFIGS / "recipes"
AUTO = "auto"


class Recipe(BaseModel, extra=Extra.forbid):
    """A file in configs/recipes."""

    about: str = Field(..., description="What the towers are, in one line.")
    set: dict[str, Any] = Field(
        ..., description="Settings, as `section.key: value`; they override the configuration."
    )
    choose: list[dict[str, Any]] = Field(
        [],
        description="Groups of settings that `--recipe auto` tries beside `set`, one training per "
        "group.",
    )
    when: When = Field(When(), description="What data `--recipe auto` tries it on; default: all.")


class Variant(NamedTuple):
    """What `--recipe auto` may try.

    Attributes
    ----------
    label : str
        The name of the recipe, with the settings of the group that it tries.
    settings : tuple of str
        "section.key=value" settings that override the configuration.
    when : When
        What data it is for.
    """

    label: str
    settings: tuple[str, ...]
    when: When = When()


def names() -> list[str]:
    """Return the names of the recipes."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load_recipe(name: str) -> Recipe:
    """Read the recipe `name`. Raises ConfigError that lists the names if there is none."""
    file = find_config(name, FOLDER)
    return parse(Recipe, read_yaml(file), str(file))


def recipe_settings(name: str) -> tuple[str, ...]:
    """Return the settings of the recipe `name` as `--set` takes them: "section.key=value"."""
    return as_overrides(load_recipe(name).set)


def variants() -> Iterator[Variant]:
    """Yield all that `--recipe auto` may try."""
    for name in names():
        yield from variants_of(name)


def variants_of(name: str) -> Iterator[Variant]:
    """Yield the recipe `name`, or its variants if it has settings to choose."""
    recipe = load_recipe(name)
    for group in recipe.choose or [{}]:
        words = [f"{key.rpartition('.')[2]} {as_text(value)}" for key, value in group.items()]
        settings = as_overrides({**recipe.set, **group})
        yield Variant(", ".join([name, *words]), settings, recipe.when)


def as_overrides(settings: dict[str, Any]) -> tuple[str, ...]:
    """Return settings as `--set` takes them."""
    return tuple(f"{key}={as_text(value)}" for key, value in settings.items())
