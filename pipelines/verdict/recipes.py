"""Recipes: named groups of settings that fit any data set, in configs/recipes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, Extra, Field

from twotower.pipelines.config import CONFIGS, as_text, find_config, parse
from twotower.pipelines.yaml_file import read_yaml

FOLDER = CONFIGS / "recipes"
AUTO = "auto"


class Recipe(BaseModel, extra=Extra.forbid):
    """A file in configs/recipes."""

    about: str = Field(..., description="What the towers are, in one line.")
    set: dict[str, Any] = Field(
        ..., description="Settings, as `section.key: value`; they override the configuration."
    )
    choose: dict[str, list[Any]] = Field(
        {},
        description="Settings, and the values that `--recipe auto` tries for each, one training "
        "per value.",
    )


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


def variants() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the label and the settings of all that `--recipe auto` tries."""
    for name in names():
        recipe = load_recipe(name)
        if not recipe.choose:
            yield name, as_overrides(recipe.set)
        for key, values in recipe.choose.items():
            for value in values:
                label = f"{name}, {key.rpartition('.')[2]} {as_text(value)}"
                yield label, as_overrides({**recipe.set, key: value})


def as_overrides(settings: dict[str, Any]) -> tuple[str, ...]:
    """Return settings as `--set` takes them."""
    return tuple(f"{key}={as_text(value)}" for key, value in settings.items())
