"""`tune`: search for better settings with Optuna, one training after another."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, root_validator
from rich.markup import escape

from twotower.models.training.config import MAX_INT
from twotower.pipelines.config import (
    CONFIGS,
    Config,
    as_text,
    find_config,
    from_anywhere,
    parse,
    to_yaml,
)
from twotower.pipelines.console import console, say
from twotower.pipelines.errors import ChildError, ConfigError, RunError
from twotower.pipelines.experiments.experiment import ExperimentConfig, varied
from twotower.pipelines.experiments.space import Space
from twotower.pipelines.experiments.trial import Trial, measure_in_subprocess, prepare, short_hash
from twotower.pipelines.lock import writing
from twotower.pipelines.run import write_atomically
from twotower.pipelines.yaml_file import read_yaml

if TYPE_CHECKING:
    import optuna

TUNINGS = Path("tune")
MAX_COUNT = 1_000_000
JOURNAL, BEST = "study.journal", "best.yaml"
SETTINGS, REASON = "settings", "reason"  # names of what is stored with an Optuna trial


class TuneConfig(ExperimentConfig):
    """A file in configs/tune."""

    seed: int = Field(42, ge=0, le=MAX_INT, description="Seed of the search and of every training.")
    trials: int | None = Field(None, gt=0, le=MAX_COUNT, description="Number of trainings.")
    minutes: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="Total time of all trainings; no training starts after it, but the last one "
        "may end later.",
    )
    prune_after: int | None = Field(
        3,
        gt=0,
        le=MAX_COUNT,
        description="From this epoch on, a training is stopped if its best metric so far is below "
        "the median that earlier trainings had at that epoch. null: never.",
    )
    prune_from: int = Field(
        5, ge=0, le=MAX_COUNT, description="This many first trainings are never stopped early."
    )
    space: dict[str, Space] = Field(
        ..., description="The settings to search, as `section.key`, and their possible values."
    )

    @root_validator(skip_on_failure=True)
    def _ends_and_has_a_space(cls, values: dict) -> dict:
        if values["trials"] is None and values["minutes"] is None:
            raise ValueError("set how long to search: trials, minutes, or both")
        if not values["space"]:
            raise ValueError("space: empty; add at least one setting to search")
        return values


@dataclass(frozen=True)
class Search:
    """A running search and what each of its trainings needs.

    Attributes
    ----------
    plan : TuneConfig
    tree : dict
        The settings that all trainings share.
    monitor : str
        The valid metric to maximize.
    study : optuna.Study
    folder : Path
        tune/<name>.
    """

    plan: TuneConfig
    tree: dict[str, Any]
    monitor: str
    study: optuna.Study
    folder: Path


def tune(file: Path, data: Path | None = None) -> Config:
    """Search for the best settings, print them, and write them to tune/<name>/best.yaml.

    The first training has the current settings, if they are in the space. When called again, the
    search continues where it ended, also after a kill, with the same result as without the
    interruption. If the data, the code or a setting other than `trials` and `minutes` has changed,
    a new search begins.

    Parameters
    ----------
    file : Path
        A YAML file with a `TuneConfig`, or the name of one in configs/tune.
    data : Path, optional
        Replaces ingest.path.

    Returns
    -------
    Config
        The configuration with the best settings found.

    Raises
    ------
    ConfigError
        If the file is wrong; nothing has been trained then.
    RunError
        If all trainings failed.
    """
    file = find_config(file, CONFIGS / "tune")
    plan = parse(TuneConfig, read_yaml(file), str(file))
    tree = plan.common(file, data)
    tree["training"]["seed"] = plan.seed
    base = _check_space(plan, tree, file)
    folder = TUNINGS / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    with writing(folder, "tune"):
        return _run(plan, tree, base, folder)


def _run(plan: TuneConfig, tree: dict[str, Any], base: Config, folder: Path) -> Config:
    with console.status("preparing the data"):
        run = prepare(base, folder)
    console.print(escape(run.notes("ingest")["summary"]))
    identity = Trial(base, run.path, parts=("valid",)).identity()
    settings = plan.json(include={"space", "seed", "prune_after", "prune_from"}, sort_keys=True)
    study = _open_study(plan, folder, short_hash([identity, settings]))
    search = Search(plan, tree, base.training.monitor, study, folder)
    while not _is_over(search):
        console.print(escape(_run_trial(search)))
    return _conclude(search)


def _check_space(plan: TuneConfig, tree: dict[str, Any], file: Path) -> Config:
    """Return the current configuration. Raises ConfigError for a key or value that is not valid."""
    for key, space in plan.space.items():
        for value in space.extremes():
            varied(tree, {key: value}, f"{file}: space")
    return varied(tree, {}, str(file))


def _open_study(plan: TuneConfig, folder: Path, identity: str) -> optuna.Study:
    """Open or create the study `identity` in the journal; killed trainings count as failed."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
        study_name=f"{plan.name}-{identity}",
        direction="maximize",
        pruner=_pruner(plan),
        load_if_exists=True,
    )
    for killed in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        study.tell(killed.number, state=TrialState.FAIL)
    if found := len(_done(study)):
        console.print(f"continuing after {found} trials")
    return study


def _pruner(plan: TuneConfig) -> optuna.pruners.BasePruner:
    from optuna.pruners import MedianPruner, NopPruner

    if plan.prune_after is None:
        return NopPruner()
    return MedianPruner(n_startup_trials=plan.prune_from, n_warmup_steps=plan.prune_after)


def _done(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that count: completed, pruned, or failed with a reason (not killed)."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name in ("COMPLETE", "PRUNED") or REASON in trial.user_attrs
    ]


def _is_over(search: Search) -> bool:
    done = _done(search.study)
    trials, minutes = search.plan.trials, search.plan.minutes
    if trials is not None and len(done) >= trials:
        return True
    return minutes is not None and sum(map(_seconds, done)) >= 60 * minutes


def _seconds(trial: optuna.trial.FrozenTrial) -> float:
    """Return how long a finished trial took."""
    return trial.duration.total_seconds() if trial.duration else 0.0


def _run_trial(search: Search) -> str:
    """Run the next trial; return the line to print."""
    from optuna.samplers import TPESampler

    plan, study, number = search.plan, search.study, len(_done(search.study))
    # A new sampler per trial: its choice depends only on the done trials, not on interruptions.
    study.sampler = TPESampler(seed=plan.seed + number)
    if number == 0:
        _enqueue_current(search)
    trial = study.ask()
    values = {key: space.suggest(trial, key) for key, space in plan.space.items()}
    trial.set_user_attr(SETTINGS, values)
    state, text, value = _train(search, trial, values, number)
    study.tell(trial, value, state=state)
    count = f"{number + 1}/{plan.trials}" if plan.trials else f"{number + 1}"
    return _line(search, study.trials[trial.number], count, text)


def _line(search: Search, trial: optuna.trial.FrozenTrial, count: str, text: str) -> str:
    """Return the line to print about a finished trial; the best one so far has an asterisk."""
    best = search.study.best_trial if _complete(search.study) else None
    settings = "  ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={as_text(value)}"
        for key, value in trial.user_attrs[SETTINGS].items()
    )
    so_far = f"best {best.value:.4f}" if best else "no best yet"
    flag = "*" if best and best.number == trial.number else " "
    seconds = f"{_seconds(trial):.0f} s"
    return f"{count:>7}{flag} {search.monitor} {text}  {so_far}  {seconds}  {settings}"


def _train(
    search: Search, trial: optuna.Trial, values: dict[str, Any], number: int
) -> tuple[optuna.trial.TrialState, str, float | None]:
    """Train with `values`; return the state of the trial, a text to print, and the metric."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    checkpoints, epochs = search.folder / "training", 0
    shutil.rmtree(checkpoints, ignore_errors=True)
    with console.status(f"trial {number + 1}") as status:

        def on_metrics(metrics: Mapping[str, float]) -> None:
            nonlocal epochs
            epochs += 1
            value = metrics[search.monitor]
            status.update(f"trial {number + 1}: epoch {epochs}, {search.monitor} {value:.4f}")
            trial.report(value, epochs)
            if trial.should_prune():
                raise TrialPruned(f"{value:.4f} stopped early after epoch {epochs}")

        try:
            config = varied(search.tree, values, f"trial {number + 1}")
            run = prepare(config, search.folder)
            measured = Trial(config, run.path, parts=("valid",))
            log = search.folder / "logs" / f"trial{number + 1}.log"
            result = measure_in_subprocess(measured, checkpoints, log, on_metrics)
        except TrialPruned as pruned:
            return TrialState.PRUNED, str(pruned), None
        except (ChildError, ConfigError) as error:
            trial.set_user_attr(REASON, str(error))
            return TrialState.FAIL, f"failed: {str(error).splitlines()[0]}", None
        finally:
            shutil.rmtree(checkpoints, ignore_errors=True)
    value = result["valid"][search.monitor]
    return TrialState.COMPLETE, f"{value:.4f}", value


def _enqueue_current(search: Search) -> None:
    """Make the current settings the first to be tried."""
    from optuna.trial import TrialState

    if search.study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
        return
    current = {}
    for key, space in search.plan.space.items():
        value = reduce(lambda node, part: node[part], key.split("."), search.tree)
        if space.has(value):
            current[key] = space.stored(value)
    search.study.enqueue_trial(current)


def _complete(study: optuna.Study) -> bool:
    return any(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False))


def _conclude(search: Search) -> Config:
    """Print and write the best settings. Raises RunError if there are none."""
    if not _complete(search.study):
        reasons = [trial.user_attrs[REASON] for trial in _done(search.study)]
        raise RunError(f"no training was completed; the reason of the last one: {reasons[-1]}")
    best = search.study.best_trial
    values = best.user_attrs[SETTINGS]
    config = varied(search.tree, values, "the best settings").copy(
        update={"name": search.plan.name}
    )
    path = search.folder / BEST
    write_atomically(path, to_yaml(from_anywhere(config)))
    changed = {**search.plan.set, **values}
    arguments = (f"--set {shlex.quote(f'{key}={as_text(v)}')}" for key, v in changed.items())
    console.print(f"best valid {search.monitor} {best.value:.4f}")
    console.print(escape(" ".join(arguments)))
    say(f"to use them: twotower run --config {path}")
    return config
