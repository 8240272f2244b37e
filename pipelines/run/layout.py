"""What a run folder contains, and the steps that write it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic.json import pydantic_encoder

from twotower.pipelines.config import Config

RUNS = Path("runs")
CONFIG, MANIFEST = "config.yaml", "manifest.json"
TRITON = "triton"
STAGING = ".twotower-staging"
VERSION = "version"
"""The folder below STAGING in which `export` writes the new version."""
NOT_EXPORTED = (
    "host",
    "http_port",
    "grpc_port",
    "metrics_port",
    "startup_seconds",
    "keep_versions",
    "events",
    "experiment",
)
"""Keys of the section `serving` that do not change the exported version."""


@dataclass(frozen=True)
class Step:
    """One of the parts of the job that write the run folder.

    Attributes
    ----------
    name : str
        The name in the manifest, which is also the command.
    folders : tuple of str
        The folders that it writes.
    after : tuple of str
        The steps whose output it reads.
    settings : tuple of str
        The sections of the configuration that it reads.
    """

    name: str
    folders: tuple[str, ...]
    after: tuple[str, ...]
    settings: tuple[str, ...]


_STEPS = (
    Step(name="ingest", folders=("data",), after=(), settings=("ingest",)),
    Step(
        name="preprocess",
        folders=("workflow", "processed"),
        after=("ingest",),
        settings=("positives", "split", "features"),
    ),
    Step(name="train", folders=("model",), after=("preprocess",), settings=("model", "training")),
    Step(
        name="rank",
        folders=("ranking",),
        after=("ingest", "preprocess", "train"),
        settings=("ranking",),
    ),
    Step(
        name="evaluate",
        folders=("reports",),
        after=("preprocess", "train", "rank"),
        settings=("evaluation", "ranking"),
    ),
    Step(
        name="export",
        folders=("index",),
        after=("ingest", "preprocess", "train", "rank"),
        settings=("serving", "ranking"),
    ),
)
STEPS = {step.name: step for step in _STEPS}


def ranking_step(config: Config) -> tuple[str, ...]:
    """The step `rank` if the settings have a ranking model, or else no step."""
    return () if config.ranking.model is None else ("rank",)


def upstream_of(config: Config, name: str) -> tuple[str, ...]:
    """The steps whose output the step `name` reads."""
    return tuple(each for each in STEPS[name].after if each != "rank" or ranking_step(config))


def folders_of(names: Iterable[str]) -> list[str]:
    """The folders that the steps `names` write."""
    return [folder for name in names for folder in STEPS[name].folders]


def settings_of(config: Config, name: str) -> dict[str, Any]:
    """The sections of `config` that the step `name` reads, as plain values."""
    tree = json.loads(config.json())
    sections = {section: tree[section] for section in STEPS[name].settings}
    for key in NOT_EXPORTED:
        sections.get("serving", {}).pop(key, None)
    return sections


def changed_settings(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The keys "section.key" whose values differ.

    A key that is missing in `old` was added to the project later; its default describes what was
    done then.
    """
    return [
        f"{section}.{key}"
        for section in new
        for key in sorted({*old.get(section, {}), *new[section]})
        if old.get(section, {}).get(key, _default(section, key)) != new[section].get(key)
    ]


def _default(section: str, key: str) -> Any:
    field = Config.__fields__[section].type_.__fields__.get(key)
    return json.loads(json.dumps(field.get_default(), default=pydantic_encoder)) if field else None
