"""Fit the two towers, choose the epoch on the full-catalogue validation metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipelines.console import stage
from pipelines.errors import RunError
from pipelines.evaluate import Judge
from pipelines.preprocess import SCHEMA, load_training_data
from pipelines.run import Run

if TYPE_CHECKING:
    from models.training import TrainingData


def validation(run: Run, data: TrainingData) -> Callable[[Any], dict[str, float]]:
    """A function from a model to its full-catalogue metrics on the valid part."""
    from models.two_tower import TowerScorer

    judge = Judge(run, "valid")
    return lambda model: judge.judge(TowerScorer.of(model, data.users, data.items)).values


def train(run: Run, resume: bool = False) -> dict:
    """Fit, keep the best epoch, save both towers to model/.

    With `resume` the saved model is fitted further on the same data instead of a new one.
    """
    run.verified("ingest", "preprocess")
    if resume:
        run.verified("train", settings=False)  # more epochs are other settings
    with stage("train") as (report, result), run.step("train") as (out, notes):
        report(0, 1, "import TensorFlow and Merlin")
        from merlin.schema.io.tensorflow_metadata import TensorflowMetadata

        from models.training import create, fit, load, save

        data = load_training_data(run)
        config = run.config.training
        if resume:
            tower = load(run.path / "model", config)
            if tower.config != run.config.model:
                raise RunError(
                    f"{run.path}: the saved model was built with other `model` settings; train "
                    "without --resume, or set them back"
                )
        else:
            schema = TensorflowMetadata.from_proto_text_file(
                str(run.path / "processed"), SCHEMA
            ).to_merlin_schema()
            tower = create(schema, data, run.config.model, config.seed)
        logs = out / "model" / "tensorboard"
        history = fit(tower, data, config, validation(run, data), out / "model", logs, report)
        save(tower, history, out / "model")
        scores = history[f"val_{config.monitor}"]
        best = max(range(len(scores)), key=scores.__getitem__)
        rows = len(data.user_rows)
        seconds = sum(history["seconds"])
        notes |= {
            "epochs": len(scores),
            "best_epoch": best + 1,
            f"valid_{config.monitor}": scores[best],
            "rows_per_second": round(rows * len(scores) / seconds),
        }
        result(
            f"{len(scores)} epochs, best {best + 1} with valid {config.monitor} "
            f"{scores[best]:.4f}; {notes['rows_per_second']:,} rows/s"
        )
    return notes
