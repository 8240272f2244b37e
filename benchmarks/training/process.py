"""One training in a process of its own, which limits of time and memory can end.

python -m benchmarks.training.process '<task as JSON>' --memory-gb 8    prints one line of JSON
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from benchmarks.child import child

if TYPE_CHECKING:
    from merlin.schema import Schema

    from benchmarks.training.subjects import Subject
    from twotower.models.training.data import TrainingData
    from twotower.pipelines.run import Run

OURS, NO_LISTS, STOCK = "ours", "ours, without genres", "stock TwoTowerModelV2"
TFRS, TFRS_XLA = "TFRS", "TFRS, XLA"
SUBJECTS = (OURS, NO_LISTS, STOCK, TFRS, TFRS_XLA)
METRIC = "ndcg@10"
# Messages of TensorFlow, XLA, NumPy and the C++ library when memory cannot be allocated.
OUT_OF_MEMORY = (
    "OOM when allocating",
    "ResourceExhausted",
    "RESOURCE_EXHAUSTED",
    "MemoryError",
    "bad_alloc",
    "out of memory",
    "Out of memory",
    "Cannot allocate memory",
    "Cannot parse tensor from proto",  # a constant of a graph
)


@dataclass(frozen=True)
class Task:
    """One training.

    Attributes
    ----------
    subject : str
        One of `SUBJECTS`.
    run : str
        A preprocessed run folder; not read if `vocabulary` is given.
    training : dict
        Keys of TrainingConfig that replace those of the run's configuration.
    rows : int, optional
        Interactions per epoch, drawn at random; None for all.
    vocabulary : tuple of int, optional
        Numbers of users and items for random data: `rows` interactions of ids without features.
    target : float, optional
        NDCG@10 on test, computed after every epoch. Peers stop when they reach it; ours stops as
        its configuration says.
    seconds : float, optional
        Training time after which peers stop; needed with a target.
    """

    subject: str
    run: str
    training: dict[str, Any]
    rows: int | None = None
    vocabulary: tuple[int, int] | None = None
    target: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class TrainingResult:
    """What a task measured; GB are 10^9 bytes.

    Attributes
    ----------
    rows : int
        Interactions per epoch.
    seconds, losses : list of float
        One per epoch; the first epoch includes tracing and compiling.
    scores : list of float
        NDCG@10 on test after every epoch, for a task with a target.
    baseline_gb, peak_gb : float
        Resident memory before the model was built, and its maximum.
    tables_gb : float
        Variables of the model and of its optimizer.
    """

    rows: int
    seconds: list[float]
    losses: list[float]
    scores: list[float]
    baseline_gb: float
    peak_gb: float
    tables_gb: float

    @property
    def rows_per_s(self) -> float:
        """Median speed of the epochs after the first."""
        return self.rows / median(self.seconds[1:])

    @property
    def warm_up_s(self) -> float:
        """How much longer the first epoch took than the others."""
        return self.seconds[0] - median(self.seconds[1:])


def measure(task: Task, memory_gb: int, limit_s: float) -> TrainingResult | str:
    """Run a task in a process of its own.

    Parameters
    ----------
    task : Task
    memory_gb : int
        Memory that the process may allocate, in 10^9 bytes.
    limit_s : float
        Seconds that the process may run, imports and evaluations included.

    Returns
    -------
    TrainingResult or str
        The limit that ended the process, as text, if one did.

    Raises
    ------
    click.ClickException
        If the process fails for another reason.
    """
    command = [
        sys.executable,
        "-m",
        "benchmarks.training.process",
        json.dumps(asdict(task)),
        f"--memory-gb={memory_gb}",
    ]
    try:
        with child(command) as process:
            output, log = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        return f"not done in {limit_s:g} s"
    if process.returncode == 0:
        return TrainingResult(**json.loads(output.splitlines()[-1]))
    if any(message in log for message in OUT_OF_MEMORY):
        return f"out of memory (limit {memory_gb} GB)"
    raise click.ClickException(f"{task} failed with code {process.returncode}: {log[-2000:]}")


class Monitor:
    """Scores the model after every epoch of a task with a target.

    Parameters
    ----------
    task : Task
    score : callable, optional
        Computes the score of a model; None for a task without a target.
    """

    def __init__(self, task: Task, score: Callable[[Any], float] | None) -> None:
        self.task, self.score = task, score
        self.scores: list[float] = []

    def __call__(self, model: Any) -> float:
        """Score the model; return 0 without a target."""
        if self.score is None:
            return 0.0
        self.scores.append(self.score(model))
        return self.scores[-1]

    def should_stop(self, seconds: float) -> bool:
        """Whether the target, or the limit of training time, has been reached."""
        if self.task.target is None or self.task.seconds is None:
            return False
        return self.scores[-1] >= self.task.target or seconds >= self.task.seconds


def train(task: Task) -> TrainingResult:
    """Train in this process."""
    from twotower.models.training.config import TrainingConfig
    from twotower.pipelines.run import Run

    score: Callable[[Any], float] | None = None
    if task.vocabulary:
        from benchmarks.training.subjects import random_data

        users, items = task.vocabulary
        schema, data = random_data(users=users, items=items, rows=task.rows or 0)
        configured = TrainingConfig()
    else:
        run = Run(Path(task.run))
        schema, data = _load_data(task, run)
        configured = run.config.training
        if task.target:
            score = _test_score(run, data)
    config = TrainingConfig.parse_obj({**configured.dict(), **task.training})
    baseline = _resident_gb("VmRSS")
    subject = _subject(task.subject)(schema, data, config)
    monitor = Monitor(task, score)
    seconds, losses = subject.fit(monitor)
    variables = [*subject.model.variables, *subject.model.optimizer.variables]
    return TrainingResult(
        rows=len(data.user_rows) // config.batch_size * config.batch_size,
        seconds=seconds,
        losses=losses,
        scores=monitor.scores,
        baseline_gb=baseline,
        peak_gb=_resident_gb("VmHWM"),
        tables_gb=sum(each.shape.num_elements() * each.dtype.size for each in variables) / 1e9,
    )


def _subject(name: str) -> type[Subject]:
    from benchmarks.training.subjects import Ours, Stock

    subjects: dict[str, type[Subject]] = {OURS: Ours, NO_LISTS: Ours, STOCK: Stock}
    if name in (TFRS, TFRS_XLA):
        from benchmarks.training.tfrs import CompiledRecommenders, Recommenders

        subjects |= {TFRS: Recommenders, TFRS_XLA: CompiledRecommenders}
    return subjects[name]


def _load_data(task: Task, run: Run) -> tuple[Schema, TrainingData]:
    from merlin.schema.io.tensorflow_metadata import TensorflowMetadata

    from benchmarks.training.subjects import sample_rows, without_lists
    from twotower.pipelines.steps.preprocess import load_training_data
    from twotower.pipelines.steps.processed import SCHEMA

    text = TensorflowMetadata.from_proto_text_file(str(run.path / "processed"), SCHEMA)
    schema, data = text.to_merlin_schema(), load_training_data(run)
    if task.subject != OURS:
        schema, data = without_lists(schema, data)
    return schema, data if task.rows is None else sample_rows(data, task.rows)


def _test_score(run: Run, data: TrainingData) -> Callable[[Any], float]:
    """Return a function that computes a model's NDCG@10 on test, train and valid masked."""
    from twotower.pipelines.evaluation.evaluator import Evaluator

    evaluator = Evaluator(run, "test")

    def score(model: Any) -> float:
        scorer = evaluator.tower_scorer(model, data.users, data.items)
        return evaluator.evaluate(scorer).values[METRIC]

    return score


def _resident_gb(kind: str) -> float:
    """Read VmRSS, the present resident memory, or VmHWM, its maximum, in 10^9 bytes.

    The maximum of getrusage would include the parent's memory.
    """
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if kind in line)
    return int(line.split()[1]) * 1024 / 1e9


@click.command()
@click.argument("task")
@click.option("--memory-gb", type=int, required=True, help="Limit of allocated memory, 10^9 bytes.")
def main(task: str, memory_gb: int) -> None:
    """Run one TASK, given as JSON."""
    from twotower.pipelines.cli import quiet

    quiet()
    resource.setrlimit(resource.RLIMIT_DATA, (memory_gb * 10**9,) * 2)
    click.echo(json.dumps(asdict(train(Task(**json.loads(task))))))


if __name__ == "__main__":
    main()
