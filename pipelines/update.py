"""The daily loop: what is new is learnt on top of what is there, and published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipelines.console import say, stage
from pipelines.errors import ConfigError, RunError
from pipelines.evaluate import evaluate
from pipelines.export import export
from pipelines.libraries import load_libraries
from pipelines.preprocess import SCHEMA, load_training_data, preprocess_more
from pipelines.publish import publish
from pipelines.run import TRITON, Run, writes
from pipelines.train import starting, summary, validation
from serving.versions import ModelRepository


@writes
def update(run: Run, folder: Path) -> int:
    """Take in what `folder` has, fit the model further, evaluate, export and publish it.

    `folder` is in the format of the run's source: see `workflows.ingest.ingest_more`. Data,
    vocabularies and model change together or not at all; when a later step fails, the version
    published before stays, and the same update again goes on there. With nothing new in `folder`
    only what is not done yet is done. Returns the published version.
    """
    if not folder.exists():
        raise ConfigError(f"--data {folder}: no such file or folder")
    run.verified("ingest", "preprocess", "train")
    _learn(run, folder)
    for step in (evaluate, export):
        if not _stands(run, step.__name__):
            step(run)
    version = run.notes("export")["version"]
    if ModelRepository(run.path / TRITON).published != version:
        publish(run, version)
    return version


def _learn(run: Run, folder: Path) -> None:
    from workflows.ingest import IngestReport, ingest_more

    with stage("ingest") as (report, result):
        more = ingest_more(run.config.ingest, run.path / "data", folder, report, say)
        if more is None:
            result(f"{folder}: nothing new")
            return
        tables, appended = more
        before, total = run.notes("ingest"), IngestReport.of(run.config.ingest.source, tables)
        new = {
            "path": str(folder),
            "interactions": appended,
            "users": total.users - before["users"],
            "items": total.items - before["items"],
        }
        counts = ", ".join(f"{new[name]:,} {name}" for name in ("interactions", "users", "items"))
        result(f"new: {counts}; {total}")
    with stage("import") as (_, result):
        load_libraries()
        result("TensorFlow and Merlin")
    with run.steps("update", "ingest", "preprocess", "train") as (out, notes):
        tables.write(out / "data")
        notes["ingest"] |= {**total.dict(), "summary": str(total)}
        notes["ingest"]["updates"] = [*before.get("updates", []), new]
        new_rows = preprocess_more(run, out, appended, notes["preprocess"])
        _fit_further(run, out, new_rows, notes["train"])


def _fit_further(run: Run, out: Path, new_rows: int, notes: dict[str, Any]) -> None:
    """Grow the run's model and fit it; the last `new_rows` of train in `out` are new."""
    with stage("train") as (report, result):
        from merlin.schema.io.tensorflow_metadata import TensorflowMetadata

        from models.growth import grow, hold, known_items, with_replay
        from models.training import fit, load, save
        from models.two_tower import embed

        staged, config = run.within(out), run.config.update
        training = run.config.training.copy(update=config.dict(exclude={"replay", "moving"}))
        data = load_training_data(staged)
        if training.start:  # solved for all interactions anew, there is nothing to fit
            training, sample = training.copy(update={"epochs": 1}), data
        else:
            sample = with_replay(data, new_rows, config.replay, training.batch_size, training.seed)
        schema = TensorflowMetadata.from_proto_text_file(str(out / "processed"), SCHEMA)
        old = load(run.path / "model")
        tower = grow(old, schema.to_merlin_schema(), data, training.seed)
        before = embed(tower.model.candidate_encoder, data.items)
        judge = validation(staged, data)

        def validate(model) -> dict[str, float]:
            if not training.start:
                hold(tower, old, config.moving)  # at the end of every epoch, before it is judged
            return judge(model)

        begin = starting(tower, data, training, report, turned=True)
        history = fit(
            *(tower, sample, training, validate, out / "state"),
            progress=report,
            begin=begin,
            known=data,
        )
        save(tower, out / "model")
        after = embed(tower.model.candidate_encoder, data.items)
        norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
        # What is beyond training.start's most_items has zeros for a vector, and no direction.
        known = known_items(old, data.items) & (norms > 0)
        moved = (before * after).sum(axis=1)[known] / norms[known]
        notes |= summary(history, training.monitor, len(sample.user_rows))
        notes |= {
            "updated_with": config.dict(),
            "new_rows": new_rows,
            "replayed_rows": len(sample.user_rows) - new_rows,
            "item_cosine": float(moved.mean()),
        }
        result(
            f"{new_rows:,} new rows, {notes['replayed_rows']:,} old; {notes['epochs']} epochs, "
            f"best {notes['best_epoch']} with valid {training.monitor} "
            f"{notes[f'valid_{training.monitor}']:.4f} of {notes['valid_users']:,} users; "
            f"items' cosine to before {moved.mean():.4f}"
        )


def _stands(run: Run, name: str) -> bool:
    """Whether the step `name` need not be done again."""
    try:
        run.verified(name)
    except RunError:
        return False
    return True
