"""A trial: one training or one baseline, and its metrics. `compare` and `tune` run many."""

from __future__ import annotations

import ast
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower.pipelines.child import run_in_subprocess
from twotower.pipelines.config import Config
from twotower.pipelines.console import say
from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.run import STEPS, Run, versions
from twotower.serving.runtime.manifest import sha256

if TYPE_CHECKING:
    from twotower.models.evaluation.config import BaselineName
    from twotower.models.evaluation.ranking import Ranker, Scorer
    from twotower.pipelines.evaluation.evaluator import Evaluator

    ScorerOf = Callable[[Evaluator], Scorer | Ranker]

DATA_SECTIONS = STEPS["ingest"].settings + STEPS["preprocess"].settings
MODELS = Path(__file__).resolve().parents[2] / "models"
OnMetrics = Callable[[Mapping[str, float]], None]
"""Called after each epoch with the valid metrics."""


@dataclass(frozen=True)
class Trial:
    """A training or a baseline to measure.

    Attributes
    ----------
    config : Config
        All settings, including the seed.
    data : Path
        A run folder in which `ingest` and `preprocess` are done.
    baseline : str, optional
        The baseline to fit instead of the towers.
    parts : tuple of str
        The parts of the split to measure on.
    """

    config: Config
    data: Path
    baseline: BaselineName | None = None
    parts: tuple[str, ...] = ("valid", "test")

    def identity(self) -> str:
        """Return a hash of all that determines the result: data, settings, packages, models/."""
        settings = json.loads(self.config.json(include={"model", "training", "evaluation"}))
        del settings["training"]["checkpoint_seconds"], settings["evaluation"]["baselines"]
        if self.baseline:
            settings = {"baseline": self.baseline, "evaluation": settings["evaluation"]}
        files = Run(self.data).manifest["steps"]["preprocess"]["files"]
        tables = {name: hashed for name, hashed in files.items() if name.endswith(".parquet")}
        code = {str(path.relative_to(MODELS)): _code(path) for path in sorted(MODELS.rglob("*.py"))}
        packages = {name: found for name, found in versions().items() if name != "platform"}
        return short_hash([settings, self.parts, tables, code, packages])


def short_hash(value: Any) -> str:
    """Return 12 hex digits of the SHA-256 of the JSON of `value`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _code(path: Path) -> str:
    """Return a hash of the code of a module, without comments and layout."""
    return short_hash(ast.dump(ast.parse(path.read_text())))


def check_valid_is_kept(config: Config) -> None:
    """Raise ConfigError if valid, on which settings are compared, is trained on."""
    if config.split.train_on_valid:
        raise ConfigError(
            "split.train_on_valid is true, but settings are compared on valid; set it to false"
        )


def prepare(config: Config, root: Path) -> Run:
    """Ingest and preprocess the data of `config`, unless this has been done in `root` before.

    Parameters
    ----------
    config : Config
    root : Path
        The folder of the experiment. The name of the run folder in it has a hash of the data's
        settings and one of the content of its files.

    Returns
    -------
    Run

    Raises
    ------
    ConfigError
        If valid is trained on.
    """
    check_valid_is_kept(config)
    sections = json.loads(config.json(include=set(DATA_SECTIONS)))
    settings = f"data-{short_hash(sections)}"
    path = root / f"{settings}-{content_hash(config)}"
    before = [other.name for other in sorted(root.glob(f"{settings}-*")) if other != path]
    if before and not path.exists():
        say(
            f"{root}: the data files have changed; they are prepared again, and all trials are "
            f"measured again ({', '.join(before)} can be deleted)"
        )
    run = Run.create(config, path)
    try:
        run.verified("ingest", "preprocess")
    except RunError:
        run_in_subprocess(partial(_prepare, config, path), path / "prepare.log")
        run.verified("ingest", "preprocess")
    return run


def content_hash(config: Config) -> str:
    """Return a hash of the content of the data files, including the split file."""
    from twotower.workflows.ingest import source_files

    files = source_files(config.ingest)
    if config.split.method == "file" and config.split.path and config.split.path.is_file():
        files.append(config.split.path)
    return short_hash([[file.name, _cached_sha256(file)] for file in files])


def _cached_sha256(path: Path) -> str:
    """Return the hash of a file, which is read again only if its size or time has changed."""
    stat = path.stat()
    return _sha256_of_state(path.resolve(), stat.st_size, stat.st_mtime_ns)


@cache
def _sha256_of_state(path: Path, size: int, mtime_ns: int) -> str:
    return sha256(path)


def _prepare(config: Config, path: Path, _: OnMetrics) -> None:
    from twotower.pipelines.steps.ingest import ingest
    from twotower.pipelines.steps.preprocess import preprocess

    run = Run.create(config, path)
    with run.writing("prepare"):
        ingest(run, remember=False)
        preprocess(run)


def measure_in_subprocess(
    trial: Trial, checkpoints: Path, log: Path, on_metrics: OnMetrics
) -> dict[str, Any]:
    """Call `measure` in its own process, whose output goes to the file `log`.

    Raises ChildError with the reason if it fails.
    """
    return run_in_subprocess(partial(measure, trial, checkpoints), log, on_metrics)


def _ignore(metrics: Mapping[str, float]) -> None:
    """No-op callback."""


def measure(trial: Trial, checkpoints: Path, on_metrics: OnMetrics = _ignore) -> dict[str, Any]:
    """Train the towers, or fit the baseline, and measure the result.

    Parameters
    ----------
    trial : Trial
    checkpoints : Path
        The folder for checkpoints; an interrupted training resumes from those in it.
    on_metrics : callable
        Called after each epoch with the valid metrics.

    Returns
    -------
    dict
        JSON values: under the name of each part its metrics by name, and under "seconds" the time
        of fitting without validation. For a training also "epochs", "best_epoch" and "curve", which
        has two lists with a value per epoch: "seconds" since the start, and the monitored metric.
    """
    from twotower.pipelines.evaluation.evaluator import Evaluator

    run = Run(trial.data)
    run.config = trial.config
    run.verified("ingest", "preprocess")
    evaluators = {part: Evaluator(run, part) for part in trial.parts}
    if trial.baseline:
        train = next(iter(evaluators.values())).train
        scorer_of, result = _fit_baseline(trial.baseline, train, trial.config.training.seed)
    else:
        scorer_of, result = _fit_towers(run, checkpoints, on_metrics)
    k = cutoff(trial.config.training.monitor)
    for part, evaluator in evaluators.items():
        scorer = scorer_of(evaluator)
        metrics = evaluator.evaluate(scorer)
        result[part] = {**metrics.to_dict(), **evaluator.popularity_metrics(scorer, k)}
    return result


def cutoff(monitor: str) -> int:
    """Return the k in the name of a metric, such as 10 for "ndcg@10"."""
    return int(monitor.rpartition("@")[2])


def _fit_baseline(name: BaselineName, train: Any, seed: int) -> tuple[ScorerOf, dict[str, Any]]:
    from twotower.models.evaluation.baselines import fit_baseline

    began = time.perf_counter()
    scorer = fit_baseline(name, train, seed)
    return lambda evaluator: scorer, {"seconds": time.perf_counter() - began}


def _fit_towers(
    run: Run, checkpoints: Path, on_metrics: OnMetrics
) -> tuple[ScorerOf, dict[str, Any]]:
    from twotower.pipelines.libraries import load_libraries
    from twotower.pipelines.steps.preprocess import load_split
    from twotower.pipelines.steps.train import check_training, fit_towers, summary

    check_training(run.config, load_split(run.path / "processed")["train"])
    load_libraries()
    checkpoints.mkdir(parents=True, exist_ok=True)
    tower, data = fit_towers(run, checkpoints, on_metrics=on_metrics)
    monitor = run.config.training.monitor
    notes = summary(tower.history, monitor, len(data.user_rows))
    result = {name: notes[name] for name in ("epochs", "best_epoch")}
    result |= {"seconds": sum(tower.history["seconds"]), "curve": _curve(tower.history, monitor)}
    model = tower.model
    return lambda evaluator: evaluator.tower_scorer(model, data.users, data.items), result


def _curve(history: Mapping[str, Any], monitor: str) -> dict[str, list[float]]:
    seconds = [sum(history["seconds"][: n + 1]) for n in range(len(history["seconds"]))]
    return {"seconds": seconds, monitor: history[f"val_{monitor}"]}
