"""`compare`: train each variant with each seed on one split, and measure all on the same users."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from twotower.pipelines.config import CONFIGS, Config, as_tree, find_config, parse
from twotower.pipelines.console import console, say
from twotower.pipelines.errors import ChildError, ConfigError, RunError
from twotower.pipelines.experiments.comparison import CompareConfig, Comparison, Outcome
from twotower.pipelines.experiments.experiment import varied
from twotower.pipelines.experiments.report import show, write_report
from twotower.pipelines.experiments.trial import Trial, measure_in_subprocess, prepare
from twotower.pipelines.lock import writing
from twotower.pipelines.run import Run, git_commit, versions, write_atomically
from twotower.pipelines.yaml_file import read_yaml

COMPARISONS = Path("compare")
RESULTS, TRAININGS, LOGS = "results", "training", "logs"


@dataclass(frozen=True)
class Job:
    """A trial to run, the row of the table it belongs to, and the name of its files."""

    row: str
    seed: int | None  # None for a baseline
    trial: Trial
    name: str

    def __str__(self) -> str:
        """Return the label for the console."""
        return self.row if self.seed is None else f"{self.row}, seed {self.seed}"


def compare(
    file: Path,
    data: Path | None = None,
    docs: Path | None = None,
    overrides: tuple[str, ...] = (),
) -> Comparison:
    """Train the variants and write a table, plots and report.html to compare/<name>.

    If a training fails, its reason is reported and the others continue. When called again, only
    trainings without a result are run: those that are new, failed or were interrupted, and those
    whose data, settings or code have changed.

    Parameters
    ----------
    file : Path
        A YAML file with a `CompareConfig`, or the name of one in configs/compare.
    data : Path, optional
        Replaces ingest.path.
    docs : Path, optional
        A folder; the table and the plots are copied to its subfolder <name>.
    overrides : tuple of str
        "section.key=value", values in YAML, added to `set` of the file. A variant's own settings
        take precedence.

    Returns
    -------
    Comparison

    Raises
    ------
    ConfigError
        If the file or an override is wrong; nothing has been trained then.
    """
    file = find_config(file, CONFIGS / "compare")
    plan = parse(CompareConfig, read_yaml(file), str(file)).overridden(overrides)
    configs = variant_configs(plan, file, data)
    folder = COMPARISONS / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    with writing(folder, "compare"):
        comparison = _run(plan, configs, folder)
        show(comparison)
        say(f"report: {write_report(comparison, folder, docs)}")
    return comparison


def _run(plan: CompareConfig, configs: dict[str, Config], folder: Path) -> Comparison:
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
    """Return the configuration of each variant.

    Raises ConfigError naming the file, the variant and the key.
    """
    if not plan.variants:
        raise ConfigError(f"{file}: variants: empty; add at least one variant")
    if taken := set(plan.variants) & set(plan.baselines):
        raise ConfigError(f"{file}: variant {min(taken)}: a baseline has this name; rename it")
    common = plan.common(file, data)
    return {
        name: varied(common, variant.set, f"{file}: variant {name}")
        for name, variant in plan.variants.items()
    }


def _jobs(plan: CompareConfig, configs: dict[str, Config], runs: dict[str, Run]) -> Iterator[Job]:
    """Yield the baselines, then every variant with the first seed, then with the second, ..."""
    first = next(iter(configs))
    for baseline in plan.baselines:
        trial = Trial(configs[first], runs[first].path, baseline)
        yield Job(baseline, None, trial, f"{baseline}-{trial.identity()}")
    for seed in plan.seeds:
        for name, config in configs.items():
            training = config.training.copy(update={"seed": seed})
            trial = Trial(config.copy(update={"training": training}), runs[name].path)
            yield Job(name, seed, trial, f"{name}-seed{seed}-{trial.identity()}")


def run_all(jobs: list[Job], monitor: str, folder: Path) -> list[Outcome]:
    """Run the jobs that have no result yet, one after another; print a line for each.

    Parameters
    ----------
    jobs : list of Job
    monitor : str
        The valid metric to print.
    folder : Path
        The folder with the results.

    Returns
    -------
    list of Outcome
        In the order of `jobs`.
    """
    _remove_other_trainings(folder / TRAININGS, {job.name for job in jobs})
    left = sum(not _file(job, folder).is_file() for job in jobs)
    if left < len(jobs):
        console.print(f"{len(jobs) - left} of {len(jobs)} results exist already")
    width = max(len(str(job)) for job in jobs)
    outcomes = []
    for job in jobs:
        if _file(job, folder).is_file():
            found = _read_result(_file(job, folder))
            outcomes.append(Outcome(job.row, job.seed, found["result"], found["commit"]))
            continue
        outcome, left = _run_job(job, monitor, folder), left - 1
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
        raise RunError(f"{path}: damaged ({error}); delete it to measure again") from None


def _remove_other_trainings(trainings: Path, names: set[str]) -> None:
    """Remove the checkpoints of interrupted trainings that are not in `names`."""
    for checkpoints in trainings.glob("*"):
        if checkpoints.name not in names:
            shutil.rmtree(checkpoints)


def _run_job(job: Job, monitor: str, folder: Path) -> Outcome:
    checkpoints = folder / TRAININGS / job.name
    log = folder / LOGS / f"{job.name}.log"
    with console.status(f"{job}") as status:
        epochs = 0

        def on_metrics(metrics: Mapping[str, float]) -> None:
            nonlocal epochs
            epochs += 1
            status.update(f"{job}: epoch {epochs}, valid {monitor} {metrics[monitor]:.4f}")

        try:
            result = measure_in_subprocess(job.trial, checkpoints, log, on_metrics)
        except ChildError as error:
            return Outcome(job.row, job.seed, reason=str(error))
    commit = git_commit()
    record = {
        "row": job.row,
        "seed": job.seed,
        "result": result,
        "config": as_tree(job.trial.config),
        "versions": versions(),
        "commit": commit,
    }
    path = _file(job, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(record, indent=1) + "\n")
    shutil.rmtree(checkpoints, ignore_errors=True)
    return Outcome(job.row, job.seed, result, commit)
