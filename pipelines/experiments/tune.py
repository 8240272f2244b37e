"""Settings searched for: one training after another, each where Optuna expects the best."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, conint, root_validator
from rich.markup import escape

from twotower.models.training.config import MAX_INT
from twotower.pipelines.config import CONFIGS, Config, from_anywhere, parse, read_tree, to_yaml
from twotower.pipelines.console import console, say
from twotower.pipelines.errors import ChildError, ConfigError, RunError
from twotower.pipelines.experiments.experiment import ExperimentConfig, as_text, varied
from twotower.pipelines.experiments.space import Space
from twotower.pipelines.experiments.trial import Trial, measure_apart, prepare, short_hash
from twotower.pipelines.lock import writing
from twotower.pipelines.run import write_atomically

if TYPE_CHECKING:
    import optuna

TUNINGS = Path("tune")
Count = conint(gt=0, le=1_000_000)
JOURNAL, BEST = "study.journal", "best.yaml"
SETTINGS, REASON = "settings", "reason"  # what a trial notes


class TuneConfig(ExperimentConfig):
    """A file in configs/tune."""

    seed: int = Field(42, ge=0, le=MAX_INT, description="of the search and of every training")
    trials: Count | None = Field(None, description="how many trainings in all")
    minutes: float | None = Field(
        None, gt=0, le=1e6, description="of trainings in all; the last one may end later"
    )
    prune_after: Count | None = Field(
        3,
        description="from this epoch on a training is given up when its best is below the median "
        "of what those before had at that epoch; none: never",
    )
    prune_from: int = Field(
        5, ge=0, le=1_000_000, description="the first n trainings are never stopped early"
    )
    space: dict[str, Space] = Field(..., description="section.key: what to choose from")

    @root_validator(skip_on_failure=True)
    def _an_end(cls, values: dict) -> dict:
        if values["trials"] is None and values["minutes"] is None:
            raise ValueError("say how long to search: trials, minutes, or both")
        if not values["space"]:
            raise ValueError("space: there is nothing to choose")
        return values


@dataclass(frozen=True)
class Search:
    """A study going on, with what each of its trainings needs."""

    plan: TuneConfig
    tree: dict[str, Any]
    monitor: str
    study: optuna.Study
    folder: Path


def tune(file: Path, data: Path | None = None) -> Config:
    """Search, print the best settings as arguments, write them to tune/<name>/best.yaml.

    `file` is a `TuneConfig`. The first training has the present settings, where they lie in the
    space. The same call again goes on with the search, also after a kill, as if there had been
    none; with other data, settings (but `trials` and `minutes`) or code a new search begins.
    """
    plan = parse(TuneConfig, read_tree(file, CONFIGS / "tune"), str(file))
    tree = plan.common(file, data)
    tree["training"]["seed"] = plan.seed
    base = _check_space(plan, tree, file)
    folder = TUNINGS / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    with writing(folder, "tune"):
        return _searched(plan, tree, base, folder)


def _searched(plan: TuneConfig, tree: dict[str, Any], base: Config, folder: Path) -> Config:
    with console.status("preparing the data"):
        run = prepare(base, folder)
    console.print(escape(run.notes("ingest")["summary"]))
    identity = Trial(base, run.path, parts=("valid",)).identity()
    settings = plan.json(include={"space", "seed", "prune_after", "prune_from"}, sort_keys=True)
    study = _open_study(plan, folder, short_hash([identity, settings]))
    search = Search(plan, tree, base.training.monitor, study, folder)
    while not _is_over(search):
        console.print(escape(_one_more(search)))
    return _conclude(search)


def _check_space(plan: TuneConfig, tree: dict[str, Any], file: Path) -> Config:
    """The present configuration. Raises ConfigError when a key or a value cannot be."""
    for key, space in plan.space.items():
        for value in space.extremes():
            varied(tree, {key: value}, f"{file}: space")
    return varied(tree, {}, str(file))


def _open_study(plan: TuneConfig, folder: Path, identity: str) -> optuna.Study:
    """That of `identity` in the folder's journal; trainings that were killed are done again."""
    import optuna
    from optuna.pruners import MedianPruner, NopPruner
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
        study_name=f"{plan.name}-{identity}",
        direction="maximize",
        pruner=MedianPruner(plan.prune_from, plan.prune_after) if plan.prune_after else NopPruner(),
        load_if_exists=True,
    )
    for killed in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        study.tell(killed.number, state=TrialState.FAIL)
    if found := len(_done(study)):
        console.print(f"going on after {found} trials")
    return study


def _done(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that need not be done again: with a value, given up, or failed by themselves."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name in ("COMPLETE", "PRUNED") or REASON in trial.user_attrs
    ]


def _is_over(search: Search) -> bool:
    done = _done(search.study)
    spent = sum(trial.duration.total_seconds() for trial in done)
    trials, minutes = search.plan.trials, search.plan.minutes
    return (trials is not None and len(done) >= trials) or (
        minutes is not None and spent >= 60 * minutes
    )


def _one_more(search: Search) -> str:
    """Do a trial; the line to print of it."""
    from optuna.samplers import TPESampler

    plan, study, number = search.plan, search.study, len(_done(search.study))
    # A sampler for each trial: what it draws follows from those that are done, killed or not.
    study.sampler = TPESampler(seed=plan.seed + number)
    if number == 0:
        _enqueue_present(search)
    trial = study.ask()
    values = {key: space.suggest(trial, key) for key, space in plan.space.items()}
    trial.set_user_attr(SETTINGS, values)
    state, text, value = _train(search, trial, values, number)
    study.tell(trial, value, state=state)
    best = study.best_trial if _complete(study) else None
    ends = f"{number + 1}/{plan.trials}" if plan.trials else f"{number + 1}"
    seconds = study.trials[trial.number].duration.total_seconds()
    told = "  ".join(
        f"{key}={v:.4g}" if isinstance(v, float) else f"{key}={as_text(v)}"
        for key, v in values.items()
    )
    known = f"best {best.value:.4f}" if best else "no best yet"
    flag = "*" if best and best.number == trial.number else " "
    return f"{ends:>7}{flag} {search.monitor} {text}  {known}  {seconds:.0f} s  {told}"


def _train(
    search: Search, trial: optuna.Trial, values: dict[str, Any], number: int
) -> tuple[optuna.trial.TrialState, str, float | None]:
    """(state, what to print, value) of the training with `values`."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    state, epochs = search.folder / "training", 0
    shutil.rmtree(state, ignore_errors=True)

    with console.status(f"trial {number + 1}") as status:

        def heard(metrics: Mapping[str, float]) -> None:
            nonlocal epochs
            epochs += 1
            value = metrics[search.monitor]
            status.update(f"trial {number + 1}: epoch {epochs}, {search.monitor} {value:.4f}")
            trial.report(value, epochs)
            if trial.should_prune():
                raise TrialPruned(f"{value:.4f} given up after epoch {epochs}")

        try:
            config = varied(search.tree, values, f"trial {number + 1}")
            run = prepare(config, search.folder)
            asked = Trial(config, run.path, parts=("valid",))
            log = search.folder / "logs" / f"trial{number + 1}.log"
            result = measure_apart(asked, state, log, heard)
        except TrialPruned as pruned:
            return TrialState.PRUNED, str(pruned), None
        except (ChildError, ConfigError) as error:
            trial.set_user_attr(REASON, str(error))
            return TrialState.FAIL, f"failed: {str(error).splitlines()[0]}", None
        finally:
            shutil.rmtree(state, ignore_errors=True)
    value = result["valid"][search.monitor]
    return TrialState.COMPLETE, f"{value:.4f}", value


def _enqueue_present(search: Search) -> None:
    """Have the present settings tried first."""
    from optuna.trial import TrialState

    if search.study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
        return
    present = {}
    for key, space in search.plan.space.items():
        value = reduce(lambda node, part: node[part], key.split("."), search.tree)
        if space.has(value):
            present[key] = space.stored(value)
    search.study.enqueue_trial(present)


def _complete(study: optuna.Study) -> bool:
    return any(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False))


def _conclude(search: Search) -> Config:
    """Print and write the best settings."""
    if not _complete(search.study):
        reasons = [trial.user_attrs[REASON] for trial in _done(search.study)]
        raise RunError(f"no training came to its end; the last one: {reasons[-1]}")
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
    say(f"try them: twotower run --config {path}")
    return config
