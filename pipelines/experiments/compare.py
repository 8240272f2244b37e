"""Variants side by side: every one trained with every seed on one split, measured alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Extra, Field, conint
from rich.markup import escape

from twotower.models.evaluation.config import BaselineName
from twotower.models.training.config import MAX_INT
from twotower.pipelines.config import CONFIGS, Config, Name, parse, read_tree
from twotower.pipelines.console import console, say
from twotower.pipelines.errors import ChildError, ConfigError, RunError
from twotower.pipelines.experiments.experiment import ExperimentConfig, as_tree, varied
from twotower.pipelines.experiments.trial import Trial, measure_apart, prepare
from twotower.pipelines.lock import writing
from twotower.pipelines.run import Run, git_commit, versions, write_atomically

COMPARISONS = Path("compare")
RESULTS, TRAININGS, LOGS = "results", "training", "logs"


class Variant(BaseModel, extra=Extra.forbid):
    """One row of the table."""

    about: str = Field("", description="what it is, in one line")
    family: str = Field(
        "",
        description="what it is an example of: losses, towers, ...; a family has a panel of the "
        "plots, and what is of the family `reference` is in all of them",
    )
    set: dict[str, Any] = Field({}, description="key: value in model., training. and features.")


class CompareConfig(ExperimentConfig):
    """A file in configs/compare."""

    seeds: list[conint(ge=0, le=MAX_INT)] = Field(
        [42], min_items=1, unique_items=True, description="training.seed of each run of a variant"
    )
    baselines: list[BaselineName] = Field(
        ["popularity", "itemknn", "ease"], unique_items=True, description="in the same table"
    )
    variants: dict[Name, Variant] = Field(..., description="by the name of its row")


@dataclass(frozen=True)
class Job:
    """A trial, its place in the table, and the name of its files."""

    row: str
    seed: int | None  # none for a baseline
    trial: Trial
    name: str

    def __str__(self) -> str:
        """For the console."""
        return self.row if self.seed is None else f"{self.row}, seed {self.seed}"


@dataclass(frozen=True)
class Outcome:
    """What became of a job: what `trial.measure` returns, or the reason why there is nothing."""

    row: str
    seed: int | None
    result: dict[str, Any] | None = None
    commit: str | None = None  # of the project, when it was measured
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """All that the report says."""

    plan: CompareConfig
    monitor: str  # the metric on valid that chooses epochs and orders the table
    protocol: str
    synthetic: bool
    outcomes: list[Outcome]

    @property
    def failed(self) -> list[Outcome]:
        """The runs that there is no result of."""
        return [outcome for outcome in self.outcomes if outcome.result is None]


def compare(
    file: Path,
    data: Path | None = None,
    docs: Path | None = None,
    overrides: tuple[str, ...] = (),
) -> Comparison:
    """Train what is not trained yet; table, plots and report.html go to compare/<name>.

    `file` is a `CompareConfig`. A run that fails is told with its reason, and the others go on.
    The same call again does only what is missing: what failed, was interrupted, or was made of
    other data, settings or code. With `docs` the report is copied to docs/<name>. `overrides` are
    "section.key=value", added to what the file has under `set`: for all variants that do not set
    the same themselves.
    """
    from twotower.pipelines.experiments.report import show, write_report

    tree = read_tree(file, CONFIGS / "compare")
    plan = parse(CompareConfig, tree, str(file)).overridden(overrides)
    configs = variant_configs(plan, file, data)
    folder = COMPARISONS / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    with writing(folder, "compare"):
        comparison = _compared(plan, configs, folder)
        show(comparison)
        say(f"report: {write_report(comparison, folder, docs)}")
    return comparison


def _compared(plan: CompareConfig, configs: dict[str, Config], folder: Path) -> Comparison:
    with console.status("preparing the data"):
        runs = {name: prepare(config, folder) for name, config in configs.items()}
    first = next(iter(configs))
    run, monitor = runs[first], configs[first].training.monitor
    protocol = f"{run.notes('ingest')['summary']}; {run.notes('preprocess')['split']['protocol']}"
    for line in (*run.notes("ingest").get("remarks", []), protocol):
        say(line)
    outcomes = run_all(list(_jobs(plan, configs, runs)), monitor, folder)
    synthetic = run.notes("ingest")["synthetic"]
    return Comparison(plan, monitor, protocol, synthetic, outcomes)


def variant_configs(plan: CompareConfig, file: Path, data: Path | None) -> dict[str, Config]:
    """Each variant's whole configuration. Raises ConfigError naming the variant and the key."""
    if not plan.variants:
        raise ConfigError(f"{file}: variants: there is none to compare")
    if taken := set(plan.variants) & set(plan.baselines):
        raise ConfigError(f"{file}: variant {min(taken)}: a baseline has this name")
    common = plan.common(file, data)
    return {
        name: varied(common, variant.set, f"{file}: variant {name}")
        for name, variant in plan.variants.items()
    }


def _jobs(plan: CompareConfig, configs: dict[str, Config], runs: dict[str, Run]) -> Iterator[Job]:
    """The baselines, then every variant with the first seed, with the second, ..."""
    first = next(iter(configs))
    for name in plan.baselines:
        trial = Trial(configs[first], runs[first].path, name)
        yield Job(name, None, trial, f"{name}-{trial.identity()}")
    for seed in plan.seeds:
        for name, config in configs.items():
            training = config.training.copy(update={"seed": seed})
            trial = Trial(config.copy(update={"training": training}), runs[name].path)
            yield Job(name, seed, trial, f"{name}-seed{seed}-{trial.identity()}")


def run_all(jobs: list[Job], monitor: str, folder: Path) -> list[Outcome]:
    """One job after another, but for those whose result is there; a line for each."""
    _sweep(folder / TRAININGS, {job.name for job in jobs})
    left = sum(not _file(job, folder).is_file() for job in jobs)
    if left < len(jobs):
        console.print(f"{len(jobs) - left} of {len(jobs)} results are there already")
    width = max(len(str(job)) for job in jobs)
    outcomes = []
    for job in jobs:
        if _file(job, folder).is_file():
            found = _read_result(_file(job, folder))
            outcomes.append(Outcome(job.row, job.seed, found["result"], found["commit"]))
            continue
        outcome, left = _run(job, monitor, folder), left - 1
        outcomes.append(outcome)
        if outcome.result:
            valid, seconds = outcome.result["valid"][monitor], outcome.result["seconds"]
            text = f"valid {monitor} {valid:.4f}  {seconds:7.1f} s"
        else:
            text = f"[bold red]failed[/]: {escape(outcome.reason.splitlines()[0])}"
        console.print(f"{escape(f'{job!s:{width}}')}  {text}  {left} left")
    return outcomes


def _file(job: Job, folder: Path) -> Path:
    return folder / RESULTS / f"{job.name}.json"


def _read_result(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        return {key: found[key] for key in ("result", "commit")}
    except (ValueError, LookupError, TypeError) as error:
        raise RunError(f"{path}: damaged ({error}); remove it to have it measured again") from None


def _sweep(trainings: Path, names: set[str]) -> None:
    """Remove what interrupted trainings have left that nobody asks for any more."""
    for left in trainings.glob("*"):
        if left.name not in names:
            shutil.rmtree(left)


def _run(job: Job, monitor: str, folder: Path) -> Outcome:
    state = folder / TRAININGS / job.name
    log = folder / LOGS / f"{job.name}.log"
    with console.status(f"{job}") as status:
        epochs = 0

        def heard(metrics: dict[str, float]) -> None:
            nonlocal epochs
            epochs += 1
            status.update(f"{job}: epoch {epochs}, valid {monitor} {metrics[monitor]:.4f}")

        try:
            result = measure_apart(job.trial, state, log, heard)
        except ChildError as error:
            return Outcome(job.row, job.seed, reason=str(error))
    record = {
        "row": job.row,
        "seed": job.seed,
        "result": result,
        "config": as_tree(job.trial.config),
        "versions": versions(),
        "commit": git_commit(),
    }
    path = _file(job, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(record, indent=1) + "\n")
    shutil.rmtree(state, ignore_errors=True)
    return Outcome(job.row, job.seed, result, record["commit"])
