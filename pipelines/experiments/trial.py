"""One training, or one baseline, measured: what `compare` and `tune` do many times."""

from __future__ import annotations

import ast
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from twotower.pipelines.child import apart
from twotower.pipelines.config import Config
from twotower.pipelines.console import say
from twotower.pipelines.errors import RunError
from twotower.pipelines.run import STEPS, Run, versions
from twotower.serving.runtime.manifest import sha256

DATA_SECTIONS = STEPS["ingest"].settings + STEPS["preprocess"].settings
MODELS = Path(__file__).resolve().parents[2] / "models"
Tell = Callable[[Any], None]


@dataclass(frozen=True)
class Trial:
    """What is measured, and on what.

    config : all settings, the seed included
    data : a run folder with `ingest` and `preprocess` done
    baseline : the one to fit instead of the towers
    parts : of the split, to measure on
    """

    config: Config
    data: Path
    baseline: str | None = None
    parts: tuple[str, ...] = ("valid", "test")

    def identity(self) -> str:
        """A hash of what the result depends on: data, settings, packages, the code in models/."""
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
    """12 hex digits of the JSON of `value`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _code(path: Path) -> str:
    """A module's code without comments and layout."""
    return short_hash(ast.dump(ast.parse(path.read_text())))


def prepare(config: Config, root: Path) -> Run:
    """A run folder in `root` with the data of `config` ingested and preprocessed, made only once.

    It is found again by the settings of the data and the content of the files. Results of other
    data are not found again: `Trial.identity` depends on what was prepared.
    """
    sections = json.loads(config.json(include=set(DATA_SECTIONS)))
    settings = f"data-{short_hash(sections)}"
    path = root / f"{settings}-{content_hash(config)}"
    before = [other.name for other in sorted(root.glob(f"{settings}-*")) if other != path]
    if before and not path.exists():
        say(
            f"{root}: the files of the data have changed, they are prepared anew and what was "
            f"measured on the old ones is measured again ({', '.join(before)} can be removed)"
        )
    run = Run.create(config, path)
    try:
        run.verified("ingest", "preprocess")
    except RunError:
        apart(partial(_prepare, config, path), path / "prepare.log")
        run.verified("ingest", "preprocess")
    return run


def content_hash(config: Config) -> str:
    """12 hex digits of what the files of the data hold, the split file included."""
    from twotower.workflows.ingest import source_files

    files = source_files(config.ingest)
    if config.split.method == "file" and config.split.path and config.split.path.is_file():
        files.append(config.split.path)
    return short_hash([[file.name, _sha256(file)] for file in files])


def _sha256(path: Path) -> str:
    """Hash of a file's bytes, read once per process while its size and time stay the same."""
    found = path.stat()
    return _sha256_of(path.resolve(), found.st_size, found.st_mtime_ns)


@cache
def _sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    return sha256(path)


def _prepare(config: Config, path: Path, tell: Tell) -> None:
    from twotower.pipelines.steps.ingest import ingest
    from twotower.pipelines.steps.preprocess import preprocess

    run = Run.create(config, path)
    with run.writing("prepare"):
        ingest(run, remember=False)
        preprocess(run)


def measure_apart(trial: Trial, state: Path, log: Path, heard: Tell) -> dict[str, Any]:
    """`measure` in a process of its own. Raises ChildError with the reason when it fails."""
    return apart(partial(measure, trial, state), log, heard)


def measure(trial: Trial, state: Path, tell: Tell = lambda metrics: None) -> dict[str, Any]:
    """Train, or fit the baseline, and measure it; `tell` gets each epoch's valid metrics.

    From what a training keeps in the folder `state` it goes on when it was interrupted.

    Returns
    -------
    Plain values: for each part its metrics by name; `seconds` of fitting without validation; of a
    training also `epochs`, `best_epoch` and `curve`, lists of the seconds after each epoch and of
    the monitored metric on valid.
    """
    from twotower.pipelines.steps.evaluate import Evaluator

    run = Run(trial.data)
    run.config = trial.config
    run.verified("ingest", "preprocess")
    evaluators = {part: Evaluator(run, part) for part in trial.parts}
    if trial.baseline:
        scorer, result = _fit_baseline(trial, next(iter(evaluators.values())).train)
    else:
        scorer, result = _fit_towers(run, state, tell)
    k = cutoff(trial.config.training.monitor)
    for part, evaluator in evaluators.items():
        metrics = evaluator.evaluate(scorer)
        result[part] = {**metrics.to_dict(), **evaluator.popularity_metrics(scorer, k)}
    return result


def cutoff(monitor: str) -> int:
    """The k of a metric's name."""
    return int(monitor.rpartition("@")[2])


def _fit_baseline(trial: Trial, train: Any) -> tuple[Any, dict[str, Any]]:
    from twotower.models.evaluation.baselines import fit_baseline

    began = time.perf_counter()
    scorer = fit_baseline(trial.baseline, train, trial.config.training.seed)
    return scorer, {"seconds": time.perf_counter() - began}


def _fit_towers(run: Run, state: Path, tell: Tell) -> tuple[Any, dict[str, Any]]:
    from twotower.pipelines.libraries import load_libraries
    from twotower.pipelines.steps.preprocess import load_split
    from twotower.pipelines.steps.train import check_training, fit_towers, summary

    check_training(run.config, load_split(run.path / "processed")["train"])
    load_libraries()
    from twotower.models.two_tower import TowerScorer

    state.mkdir(parents=True, exist_ok=True)
    tower, data = fit_towers(run, state, on_metrics=tell)
    monitor = run.config.training.monitor
    notes = summary(tower.history, monitor, len(data.user_rows))
    result = {name: notes[name] for name in ("epochs", "best_epoch")}
    result |= {"seconds": sum(tower.history["seconds"]), "curve": _curve(tower.history, monitor)}
    return TowerScorer.of(tower.model, data.users, data.items), result


def _curve(history: Mapping[str, list[float]], monitor: str) -> dict[str, list[float]]:
    seconds = [sum(history["seconds"][: n + 1]) for n in range(len(history["seconds"]))]
    return {"seconds": seconds, monitor: history[f"val_{monitor}"]}
