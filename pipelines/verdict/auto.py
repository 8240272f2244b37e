"""`--recipe auto`: train the recipes within a time budget, and take the best one on valid."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import psutil
from rich.markup import escape
from rich.table import Table

from twotower.pipelines.child import run_in_subprocess
from twotower.pipelines.config import Config, apply_overrides, as_tree, parse_config
from twotower.pipelines.console import console, stage
from twotower.pipelines.errors import ChildError, ConfigError, RunError
from twotower.pipelines.experiments.trial import (
    Trial,
    check_valid_is_kept,
    measure_in_subprocess,
    short_hash,
)
from twotower.pipelines.run import MANIFEST, STEPS, Run, write_atomically
from twotower.pipelines.run.layout import folders_of
from twotower.pipelines.steps.processed import PARTS
from twotower.pipelines.steps.train import TRAINING, state_name
from twotower.pipelines.verdict.recipes import Variant, variants
from twotower.pipelines.verdict.suits import DataFacts, data_facts

WORK = "recipes"
"""The folder below the run with the data as the recipes prepare them; it is removed at the end."""
AS_CONFIGURED = "as configured"
BUDGET = 600.0


@dataclass(frozen=True)
class Auto:
    """How `--recipe auto` searches.

    Attributes
    ----------
    seconds : float
        The time budget of all trainings together, data preparation included.
    fixed : tuple of str
        "section.key=value" settings that hold whatever the recipe says.
    """

    seconds: float = BUDGET
    fixed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attempt:
    """One recipe, and what came of it.

    Attributes
    ----------
    label : str
        The name of the recipe, with the value of the setting that it chooses.
    settings : tuple of str
        "section.key=value" settings that make the run's configuration that of the recipe.
    value : float or None
        The metric on valid, if the training has ended.
    seconds : float or None
        How long it took, with the preparation of the data if it was the first to need it.
    reason : str
        Why there is no value.
    chosen : bool
    """

    label: str
    settings: tuple[str, ...]
    value: float | None = None
    seconds: float | None = None
    reason: str = ""
    chosen: bool = False


class OutOfTime(Exception):
    """The budget ended in the middle of a training."""


def choose_recipe(run: Run, auto: Auto) -> list[Attempt]:
    """Train the recipes, take the settings of the best one on valid, and preprocess with them.

    The test part is not looked at. `train` then finds the finished training of the recipe and only
    saves it. A recipe that is impossible with these data, fails, or does not end within the budget
    is listed with the reason.

    Parameters
    ----------
    run : Run
        With the step `ingest` done. Its settings change, and the step `preprocess` is written.
    auto : Auto

    Returns
    -------
    list of Attempt
        In the order of the table that is printed; also in the notes of `preprocess`.

    Raises
    ------
    RunError
        If no recipe has a result.
    """
    check_valid_is_kept(run.config)
    monitor = run.config.training.monitor
    with stage("recipes") as (progress, result):
        search = Search(run, auto)
        attempts: list[Attempt] = []
        for number, candidate in enumerate(search.candidates):
            known = max((each.value or 0.0 for each in attempts), default=0.0)
            so_far = f"best {monitor} so far {known:.4f}" if known else ""
            progress(number, len(search.candidates), candidate.label, so_far)
            attempts.append(search.attempt(candidate))
        done = [attempt for attempt in attempts if attempt.value is not None]
        if not done:
            reasons = "\n  ".join(f"{each.label}: {each.reason}" for each in attempts)
            raise RunError(f"{run.path}: no recipe has a result within the budget:\n  {reasons}")
        best = max(done, key=lambda attempt: attempt.value or 0.0)
        attempts = [replace(each, chosen=each is best) for each in attempts]
        result(
            f"{len(done)} of {len(attempts)} tried; chosen on valid: {best.label}, with {monitor} "
            f"{best.value:.4f}"
        )
    console.print(_table(attempts, monitor))
    _adopt(run, search, best, attempts)
    return attempts


class Search:
    """Trains one candidate after another, each in a process of its own.

    Parameters
    ----------
    run : Run
    auto : Auto

    Attributes
    ----------
    candidates : list of Variant
        Those that differ from an earlier one only in how long they may train are left out.
    """

    def __init__(self, run: Run, auto: Auto):
        self.run, self.auto = run, auto
        self.began = time.perf_counter()
        self._slowest: dict[tuple[bool, bool], float] = {}  # `_kind` -> seconds
        self.candidates = self._distinct()

    def _distinct(self) -> list[Variant]:
        """The candidates by `_kind`, with the present settings before the other trained ones."""
        recipes = [each._replace(settings=each.settings + self.auto.fixed) for each in variants()]
        possible, seen = [], set()
        for candidate in [Variant(AS_CONFIGURED, ()), *recipes]:
            try:
                config = self.config(candidate.settings)
            except ConfigError:  # `attempt` reports it
                possible.append(((True, True, True), candidate))
                continue
            towers = json.loads(config.json(include={"model", "training", "features"}))
            for key in ("epochs", "patience"):
                del towers["training"][key]
            if (identity := short_hash(towers)) not in seen:
                is_trained, is_general = _kind(candidate, config)
                is_recipe = candidate.label != AS_CONFIGURED
                possible.append(((is_trained, is_trained and is_recipe, is_general), candidate))
            seen.add(identity)
        possible.sort(key=lambda each: each[0])
        return [candidate for _, candidate in possible]

    @cached_property
    def facts(self) -> DataFacts:
        """What the data are like."""
        return data_facts(self.run)

    def config(self, settings: tuple[str, ...]) -> Config:
        """Return the configuration of the run with `settings`, or raise ConfigError."""
        return parse_config(apply_overrides(as_tree(self.run.config), settings), "recipe")

    @property
    def seconds_left(self) -> float:
        """What is left of the budget."""
        return self.auto.seconds - (time.perf_counter() - self.began)

    def attempt(self, candidate: Variant) -> Attempt:
        """Train a candidate and measure it on valid, or say why not."""
        began, attempt = time.perf_counter(), Attempt(candidate.label, candidate.settings)
        if not candidate.when.is_general and (unmet := candidate.when.unmet(self.facts)):
            return replace(attempt, reason=f"not for these data: {unmet}")
        try:
            config = self.config(attempt.settings)
            kind = _kind(candidate, config)
            if reason := self._impossible(config, self._slowest.get(kind, 0.0)):
                return replace(attempt, reason=reason)
            value = self._measure(attempt.label, config)
        except OutOfTime:
            return replace(attempt, reason="stopped: the budget ended")
        except ConfigError as error:
            return replace(attempt, reason=str(error).splitlines()[-1].strip())
        except ChildError as error:
            return replace(attempt, reason=f"failed: {error.reason.splitlines()[0]}")
        seconds = time.perf_counter() - began
        self._slowest[kind] = max(seconds, self._slowest.get(kind, 0.0))
        return replace(attempt, value=value, seconds=seconds)

    def _impossible(self, config: Config, expected: float) -> str:
        """Why a training of about `expected` seconds should not begin; empty if nothing."""
        if expected >= self.seconds_left:
            return f"not tried: it would take about {expected:.0f} s, more than the budget leaves"
        users, length = self.run.notes("ingest")["users"], config.features.history or 0
        needed, free = 4 * users * length, psutil.virtual_memory().available
        if needed > free / 2:
            return (
                f"not tried: {users:,} histories of {length} items take {needed / 1e9:.1f} GB, and "
                f"{free / 1e9:.1f} GB of memory are free"
            )
        return ""

    def _measure(self, label: str, config: Config) -> float:
        """The monitored metric on valid."""
        prepared = self.prepared(config)

        def in_time(metrics: Mapping[str, float]) -> None:
            if self.seconds_left <= 0:
                raise OutOfTime

        trial = Trial(config, prepared.path, parts=("valid",))
        # Where `train` looks for it once the recipe is chosen.
        state = self.run.path / TRAINING / state_name(prepared)
        result = measure_in_subprocess(trial, state, self._log(label), in_time)
        return float(result["valid"][config.training.monitor])

    def prepared(self, config: Config) -> Run:
        """Preprocess the run's data as `config` says, unless this has been done before.

        It may have been done by a command that was killed: its trainings resume with these files.
        """
        sections = json.loads(config.json(include=set(STEPS["preprocess"].settings)))
        name = f"data-{short_hash([sections, self.run.identity('ingest')])}"
        folder = self.run.path / WORK / name
        if not (folder / MANIFEST).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / "data").symlink_to((self.run.path / "data").absolute())
            ingested = {"ingest": self.run.manifest["steps"]["ingest"]}
            manifest = {**self.run.manifest, "steps": ingested}
            write_atomically(folder / MANIFEST, json.dumps(manifest))
        prepared = Run.create(config, folder)
        if "preprocess" not in prepared.manifest["steps"]:
            run_in_subprocess(partial(_preprocess, config, folder), self._log(folder.name))
        return prepared

    def _log(self, label: str) -> Path:
        name = re.sub(r"[^a-z0-9.-]+", "-", label)
        return self.run.path / "logs" / "recipes" / f"{name}.log"


def _kind(candidate: Variant, config: Config) -> tuple[bool, bool]:
    """Whether it is trained and not solved, and whether it is for all data.

    Solved ones take the least time, and those for some data are better there: they are tried first.
    """
    return config.training.start is None, candidate.when.is_general


def _preprocess(config: Config, folder: Path, _: Any) -> None:
    from twotower.pipelines.steps.preprocess import preprocess

    preprocess(Run.create(config, folder))


def _adopt(run: Run, search: Search, best: Attempt, attempts: list[Attempt]) -> None:
    """Give the run the settings of `best` and the data that it was trained on."""
    prepared = search.prepared(search.config(best.settings))
    run.override(best.settings)
    with stage("preprocess") as (_, result), run.step("preprocess") as (out, notes):
        for folder in folders_of(["preprocess"]):
            shutil.copytree(prepared.path / folder, out / folder, dirs_exist_ok=True)
        notes |= prepared.notes("preprocess")
        notes["recipes"] = [asdict(each) for each in attempts]
        counts = notes["split"]
        result(
            f"as for the recipe; {notes['positives']:,} positives; {counts['protocol']}: "
            + ", ".join(f"{part} {counts[part]['rows']:,}" for part in PARTS)
        )
    shutil.rmtree(run.path / WORK, ignore_errors=True)


def _table(attempts: list[Attempt], monitor: str) -> Table:
    table = Table(title="recipes", title_justify="left")
    table.add_column("recipe")
    table.add_column(f"valid {monitor}", justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("")
    for each in attempts:
        value = "" if each.value is None else f"{each.value:.4f}"
        seconds = "" if each.seconds is None else f"{each.seconds:.0f}"
        note = "[bold green]chosen[/]" if each.chosen else escape(each.reason)
        table.add_row(escape(each.label), value, seconds, note)
    return table
