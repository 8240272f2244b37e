"""What the files in configs/compare and configs/tune have in common: a base and what differs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, Extra, Field

from twotower.pipelines.config import (
    CONFIGS,
    Config,
    Name,
    from_anywhere,
    parse_config,
    read_overrides,
    set_keys,
)
from twotower.pipelines.console import say
from twotower.pipelines.errors import ConfigError

VARIED = ("model", "training", "features")
OF_ALL = ("training.seed", "training.monitor")
Experiment = TypeVar("Experiment", bound="ExperimentConfig")


class ExperimentConfig(BaseModel, extra=Extra.forbid):
    """A data set, and settings that all trainings of an experiment share."""

    name: Name = Field(..., description="of the folder with what comes out")
    about: str = Field("", description="what it is to find out, printed above the results")
    base: str = Field(..., description="a configuration in configs/, without .yaml")
    set: dict[str, Any] = Field({}, description="section.key: value, instead of what the base has")

    def overridden(self: Experiment, overrides: tuple[str, ...]) -> Experiment:
        """The same with "section.key=value", values in YAML, in `set`."""
        return self.copy(update={"set": {**self.set, **read_overrides(overrides)}})

    def common(self, file: Path, data: Path | None) -> dict[str, Any]:
        """All settings of the base with those of `set`, its data found or downloaded.

        Raises ConfigError naming the file and the key.
        """
        from twotower.pipelines.job import choose

        if "training.seed" in self.set:
            raise ConfigError(f"{file}: set: training.seed: seeds have a key of their own")
        chosen, line = choose(CONFIGS / f"{self.base}.yaml", data)
        say(line)
        where = f"{file}: set"
        tree = set_keys(as_tree(chosen), self.set, where)
        return as_tree(from_anywhere(parse_config(tree, where)))


def as_tree(config: Config) -> dict[str, Any]:
    """Plain values, defaults included."""
    return json.loads(config.json())


def varied(tree: dict[str, Any], values: dict[str, Any], where: str) -> Config:
    """`tree` with `values` in the sections that trainings of one experiment may differ in."""
    config = parse_config(set_keys(tree, values, where), where)
    check_varied(values, where)
    return config


def check_varied(keys: Iterable[str], where: str) -> None:
    """ConfigError naming the first key that all trainings of an experiment have in common."""
    for key in keys:
        section, dot, _ = key.partition(".")
        if not dot or section not in VARIED or key in OF_ALL:
            raise ConfigError(
                f"{where}: {key} is the same for all trainings, which are compared on one split "
                f"and by one measure; what may differ is section.key in {', '.join(VARIED)} (but "
                f"{', '.join(OF_ALL)}). Seeds and a `set` for all are keys of the file"
            )


def as_text(value: Any) -> str:
    """`value` as the one line of YAML that --set takes."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
