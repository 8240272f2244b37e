"""The common part of the files in configs/compare and configs/tune: a base and shared settings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Extra, Field

from twotower.pipelines.config import (
    Config,
    Name,
    as_tree,
    find_config,
    from_anywhere,
    parse_config,
    read_overrides,
    set_keys,
)
from twotower.pipelines.console import say
from twotower.pipelines.errors import ConfigError

VARIED_SECTIONS = ("model", "training", "features")
"""The sections in which the trainings of an experiment may differ."""
SHARED_KEYS = ("training.seed", "training.monitor")
"""The keys in those sections that all trainings share."""
Experiment = TypeVar("Experiment", bound="ExperimentConfig")


class ExperimentConfig(BaseModel, extra=Extra.forbid):
    """The data set of an experiment, and the settings that all its trainings share."""

    name: Name = Field(..., description="Name of the experiment and of its output folder.")
    about: str = Field("", description="The question of the experiment, shown above its results.")
    base: str = Field(
        ..., description="Configuration to start from: the name of one in configs/, or a YAML file."
    )
    set: dict[str, Any] = Field(
        {}, description="Settings for all trainings, as `section.key: value`; they override `base`."
    )

    def overridden(self: Experiment, overrides: tuple[str, ...]) -> Experiment:
        """Return a copy with "section.key=value" overrides, values in YAML, added to `set`."""
        return self.copy(update={"set": {**self.set, **read_overrides(overrides)}})

    def common(self, file: Path, data: Path | None) -> dict[str, Any]:
        """Return all settings that the trainings share, with the data found or downloaded.

        Parameters
        ----------
        file : Path
            The file of the experiment, for messages.
        data : Path, optional
            Replaces ingest.path.

        Returns
        -------
        dict
            The sections of a `Config`, defaults included.

        Raises
        ------
        ConfigError
            If a setting is wrong; the message names the file and the key.
        """
        from twotower.pipelines.job import choose

        if "training.seed" in self.set:
            raise ConfigError(
                f"{file}: set: training.seed: use `seeds` at the top level of the file (`seed` in "
                "a file for tune)"
            )
        chosen, line = choose(self._base_file(file), data)
        say(line)
        where = f"{file}: set"
        tree = set_keys(as_tree(chosen), self.set, where)
        return as_tree(from_anywhere(parse_config(tree, where)))

    def _base_file(self, file: Path) -> Path:
        try:
            return find_config(self.base)
        except ConfigError as error:
            raise ConfigError(f"{file}: base: {error}") from None


def varied(tree: dict[str, Any], values: dict[str, Any], where: str) -> Config:
    """Return the configuration of one training: `tree`, the shared settings, with `values` set.

    Raises ConfigError, its message starting with `where`, if a key or a value is wrong or must be
    the same for all trainings.
    """
    config = parse_config(set_keys(tree, values, where), where)
    _check_varied(values, where)
    return config


def _check_varied(keys: Iterable[str], where: str) -> None:
    """Raise ConfigError for a key that must be the same for all trainings of an experiment."""
    for key in keys:
        section, dot, _ = key.partition(".")
        if not dot or section not in VARIED_SECTIONS or key in SHARED_KEYS:
            raise ConfigError(
                f"{where}: {key} must be the same for all trainings, because they are compared on "
                "one split with one metric; only section.key in "
                f"{', '.join(VARIED_SECTIONS)} may differ (except {', '.join(SHARED_KEYS)}). Use "
                "`set` at the top level of the file for all trainings"
            )
