"""The daily update: add new data, train the model further, evaluate, export and publish it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from twotower.models.training.config import TrainingConfig
from twotower.pipelines.console import ShowProgress, console, say, stage
from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.libraries import load_libraries
from twotower.pipelines.live.learn import LEARNED, RecordedEvents, read_recorded
from twotower.pipelines.ranking.rank import rank
from twotower.pipelines.run import TRITON, Run, ranking_step, writes
from twotower.pipelines.steps.evaluate import evaluate
from twotower.pipelines.steps.export import export
from twotower.pipelines.steps.preprocess import load_training_data, preprocess_more
from twotower.pipelines.steps.processed import SCHEMA
from twotower.pipelines.steps.publish import answering, publish
from twotower.pipelines.steps.quality_gate import objection
from twotower.pipelines.steps.serve import running_server
from twotower.pipelines.steps.train import closed_form_start, summary, validation
from twotower.serving.repository import ModelRepository
from twotower.workflows.sources.data_path import is_remote

if TYPE_CHECKING:
    from twotower.models.training.data import TrainingData
    from twotower.models.training.model import TwoTower
    from twotower.workflows.update.day import Day


class NewData(NamedTuple):
    """What is added to a run.

    Attributes
    ----------
    source : Path or RecordedEvents
    items_only : bool
        Whether `source` is a file of items.
    """

    source: Path | RecordedEvents
    items_only: bool = False

    def __str__(self) -> str:
        """What messages call it."""
        return str(self.source) if isinstance(self.source, Path) else "recorded events"

    def command(self, run: Run) -> str:
        """The verb that adds it, with its options."""
        path = shlex.quote(str(run.path))
        if not isinstance(self.source, Path):
            return f"update --run {path} --events"
        data = shlex.quote(str(self.source))
        if self.items_only:
            return f"add-items {data} --run {path}"
        return f"update --run {path} --data {data}"


@writes
def update(run: Run, folder: Path | None, anyway: bool = False) -> int:
    """Add the data in `folder`, train the model further, rank, evaluate, export and publish it.

    Data, vocabularies and model change together or not at all. If a later step fails, the earlier
    version stays published, and the same update continues at that step when it is run again. If
    `folder` has nothing new, only the missing steps are run. Towers that were published before and
    then rolled back are not published again.

    Parameters
    ----------
    run : Run
        A trained run.
    folder : Path or None
        The new data in the format of the run's source, see `workflows.update.more`; None for the
        recorded events that the run has not learned from.
    anyway : bool
        Whether to skip the checks of the data and of the model's quality.

    Returns
    -------
    int
        The published version.

    Raises
    ------
    RunError
        If the data look like a mistake (see `workflows.update.day`), or the model gets worse than
        the published version (see `pipelines.steps.quality_gate`); nothing has changed then.
    """
    if folder is not None and not is_remote(folder) and not folder.exists():
        raise ConfigError(f"--data {folder}: no such file or folder")
    run.verified("ingest", "preprocess", "train")
    published = ModelRepository(run.path / TRITON).published
    new = NewData(read_recorded(run) if folder is None else folder)
    _learn(run, new, anyway, published)
    if ranking_step(run.config) and not _is_up_to_date(run, "rank"):
        rank(run)
    if not _is_up_to_date(run, "evaluate"):
        evaluate(run)
    if not _is_up_to_date(run, "export"):
        export(run)
    return _publish(run, published)


@writes
def add_items(run: Run, file: Path, anyway: bool = False) -> int:
    """Add items that nobody has seen yet, and publish a version with them.

    The towers do not change: they make a new item's vector of its features.

    Parameters
    ----------
    run : Run
        A trained run whose items have features.
    file : Path
        One row per item, parquet, CSV or JSON lines: its id and the columns of the item table.
    anyway : bool
        Whether to skip the checks of the data.

    Returns
    -------
    int
        The published version.

    Raises
    ------
    ConfigError
        If the file does not exist, or the items of the run have no features.
    RunError
        If the data look like a mistake, see `update`.
    """
    if not is_remote(file) and not file.is_file():
        raise ConfigError(f"{file}: no such file; give a file with one row per item")
    item = run.config.features.sides[1]
    if item.columns == [item.id] and not item.vectors:
        raise ConfigError(
            "the items have no features, so nothing says what new ones are like; set "
            "features.item, item_multi_hot, item_text, item_numeric or item_vectors, and train "
            "again"
        )
    run.verified("ingest", "preprocess", "train")
    published = ModelRepository(run.path / TRITON).published
    _learn(run, NewData(file, items_only=True), anyway, published)
    if ranking_step(run.config) and not _is_up_to_date(run, "rank"):
        rank(run)
    if not _is_up_to_date(run, "export"):
        export(run)
    return _publish(run, published)


def _publish(run: Run, replaces: int | None) -> int:
    """Publish the exported version in place of version `replaces`, unless it was rolled back.

    If it was, a running server that answers with another version than the published one loads the
    published one: the command that published it was killed before the server loaded it.

    Returns
    -------
    int
        The published version.
    """
    repository, version = ModelRepository(run.path / TRITON), run.notes("export")["version"]
    same = _replaced_with_these_towers(run, repository)
    if version > repository.newest_published and same is None:
        return publish(run, version, replaces=replaces, anyway=True)
    published = repository.published
    assert published is not None  # `version` was published, or another one with its towers
    if version != published:
        reason = "" if same in (None, version) else f"has the towers of version {same}, which "
        console.print(
            f"version {published} stays published: version {version} {reason}was published "
            "earlier and then rolled back or replaced. "
            f"`twotower publish --version {version}` publishes it anyway"
        )
    if (server := running_server(run)) and answering(server) != published:
        publish(run, published, replaces=published, anyway=True)
    return published


def _replaced_with_these_towers(run: Run, repository: ModelRepository) -> int | None:
    """The newest version with the run's towers that was published earlier but is not now.

    None if the published version has these towers as well: they may have been exported again with
    other `serving` settings.
    """
    towers, newest = run.identity("train"), repository.newest_published
    same = [version for version in repository.versions() if version.towers_sha256 == towers]
    if any(version.published for version in same):
        return None
    return max((each.number for each in same if each.number <= newest), default=None)


def _learn(run: Run, data: NewData, anyway: bool, published: int | None) -> None:
    """Add new data to the run's data, vocabularies and model.

    Unless `anyway`, the model is compared with version `published`, if there is one.
    """
    from twotower.workflows.features.checks import check_sides
    from twotower.workflows.ingest import IngestReport
    from twotower.workflows.sources.findings import add_update
    from twotower.workflows.tables import frame
    from twotower.workflows.update.more import ingest_more

    with stage("ingest") as (progress, result):
        day = ingest_more(
            run.config.ingest,
            run.path / "data",
            data.source if isinstance(data.source, Path) else data.source.interactions,
            progress,
            say,
            run.config.wanted,
            data.items_only,
        )
        if day is None:
            result(f"{data}: nothing new")
            return
        user, item = run.config.features.sides
        check_sides(
            frame(day.merged.users.drop([*user.vectors])),
            frame(day.merged.items.drop([*item.vectors])),
            run.config.features,
        )
        if not anyway:
            _refuse_suspicious(run, data, day)
        before = run.notes("ingest")
        total = IngestReport.of(run.config.ingest.source, day.merged, before["synthetic"])
        new = {
            "path": str(data),
            "interactions": day.appended,
            "users": total.users - before["users"],
            "items": total.items - before["items"],
        }
        counts = ", ".join(f"{new[name]:,} {name}" for name in ("interactions", "users", "items"))
        result(f"new: {counts}; {total}")
    with stage("import") as (_, result):
        load_libraries()
        result("TensorFlow and Merlin")
    with run.steps("update", "ingest", "preprocess", "train") as (out, notes):
        day.merged.write(out / "data")
        day.ids.write(out / "data")
        add_update(run.path / "data", out / "data", str(data), day.findings)
        notes["ingest"] |= {**total.dict(), "summary": str(total)}
        notes["ingest"]["updates"] = [*before.get("updates", []), new]
        if isinstance(data.source, RecordedEvents):
            notes["ingest"][LEARNED] = data.source.learned
        new_rows = preprocess_more(run, out, day.appended, notes["preprocess"])
        tower = _fit_further(run, out, new_rows, notes["train"])
        compares = not anyway and not data.items_only and run.config.update.max_loss < 1
        if compares and published is not None:
            new_pairs = notes["preprocess"]["split"]["updated"]
            if worse := objection(run, run.within(out), tower.model, published, new_pairs):
                raise _refused(run, data, worse)


def _refuse_suspicious(run: Run, data: NewData, day: Day) -> None:
    """Raise RunError if the data of the day look like a mistake."""
    from twotower.workflows.update.day import suspicions

    config = run.config
    found = suspicions(
        day,
        config.features,
        config.positives,
        max_changed=config.update.max_changed,
        max_shift=config.update.max_shift,
    )
    if found:
        reason = "the data look like a mistake, compared with the earlier data:"
        raise _refused(run, data, "\n  ".join([reason, *found]))


def _refused(run: Run, data: NewData, reason: str) -> RunError:
    """The error for data that are refused, with the command that adds them anyway."""
    return RunError(
        f"{data}: {reason}\nNothing has changed. Correct this, or add the data as they are and "
        f"publish the result: twotower {data.command(run)} --anyway"
    )


def _fit_further(run: Run, out: Path, new_rows: int, notes: dict[str, Any]) -> TwoTower:
    """Grow the run's model for new ids and fit it; the last `new_rows` training rows are new."""
    with stage("train") as (progress, result):
        from merlin.schema.io.tensorflow_metadata import TensorflowMetadata

        from twotower.models.training.growth import grow
        from twotower.models.training.saving import load, save

        staged = run.within(out)
        data = load_training_data(staged)
        schema = TensorflowMetadata.from_proto_text_file(str(out / "processed"), SCHEMA)
        old = load(run.path / "model")
        tower = grow(old, schema.to_merlin_schema(), data, run.config.training.seed)
        if new_rows:
            _fit_on_new(run, staged, old, tower, data, new_rows, progress, notes)
            result(_outcome(notes, run.config.training.monitor))
        else:
            tower.history = old.history
            notes |= {**run.notes("train"), "new_rows": 0, "replayed_rows": 0}
            result("no new positives in the training part: the weights do not change")
        save(tower, out / "model")
    return tower


def _fit_on_new(
    run: Run,
    staged: Run,
    old: TwoTower,
    tower: TwoTower,
    data: TrainingData,
    new_rows: int,
    progress: ShowProgress,
    notes: dict[str, Any],
) -> None:
    """Fit `tower`, which is `old` grown for new ids; the last `new_rows` of `data` are new."""
    from twotower.models.training.fit import fit
    from twotower.models.training.growth import known_items, limit_change, with_replay
    from twotower.models.two_tower import embed

    config, training = run.config.update, run.config.training
    solved = _is_solved(old, training.monitor)
    whole = tower.config.sequence is not None or tower.config.graph is not None
    if solved:  # the closed form is solved again for all interactions, without gradient steps
        training, sample = training.copy(update={"epochs": 1}), data
    elif whole:  # a sample of the interactions would tear sequences and the graph apart
        training = training.copy(update={"epochs": config.epochs})
        sample = data
    else:
        of_update = config.dict(include=set(TrainingConfig.__fields__))
        # `update.moving` averages the weights, too.
        training = training.copy(update={**of_update, "average": None})
        sample = with_replay(data, new_rows, config.replay, training.batch_size, training.seed)
    solve = closed_form_start(tower, data, training, progress, align=True)
    before = embed(tower.model.candidate_encoder, data.items)
    measure = validation(staged, data)

    def validate(model: Any) -> dict[str, float]:
        if not solved and not whole:
            limit_change(tower, old, config.moving)  # at the end of every epoch
        return measure(model)

    history = fit(
        tower,
        sample,
        training,
        validate,
        staged.path / "state",
        progress=progress,
        initialize=solve if solved else None,
        all_data=data,
    )
    after = embed(tower.model.candidate_encoder, data.items)
    norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    # An item beyond the item limit of training.start has a zero vector, so no cosine.
    known = known_items(old, data.items) & (norms > 0)
    moved = (before * after).sum(axis=1)[known] / norms[known]
    notes |= summary(history, training.monitor, len(sample.user_rows))
    notes |= {
        "updated_with": config.dict(),
        "new_rows": new_rows,
        "replayed_rows": len(sample.user_rows) - new_rows,
        "item_cosine": float(moved.mean()),
    }


def _is_solved(tower: TwoTower, monitor: str) -> bool:
    """Whether the best epoch of the model is the closed form that its training started from."""
    from twotower.models.training.model import best_epoch

    return tower.history["loss"][best_epoch(tower.history, monitor)] is None


def _outcome(notes: dict[str, Any], monitor: str) -> str:
    return (
        f"{notes['new_rows']:,} new rows, {notes['replayed_rows']:,} old ones; {notes['epochs']} "
        f"epochs, best {notes['best_epoch']} with valid {monitor} {notes[f'valid_{monitor}']:.4f} "
        f"of {notes['valid_users']:,} users; mean cosine of item vectors to the earlier ones "
        f"{notes['item_cosine']:.4f}"
    )


def _is_up_to_date(run: Run, name: str) -> bool:
    """Whether the step `name` need not be run again."""
    try:
        run.verified(name)
    except RunError:
        return False
    return True
