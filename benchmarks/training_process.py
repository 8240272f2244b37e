"""One training in a process of its own, so that its memory is its own and a limit can end it.

python -m benchmarks.training_process '<task as JSON>'        prints one line of JSON
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

    from twotower.models.training.data import TrainingData
    from twotower.pipelines.run import Run

OURS, NO_LISTS, STOCK = "ours", "ours, without genres", "stock TwoTowerModelV2"
TFRS, TFRS_XLA = "TFRS", "TFRS, XLA"
SUBJECTS = (OURS, NO_LISTS, STOCK, TFRS, TFRS_XLA)
METRIC = "ndcg@10"
# What TensorFlow, XLA, NumPy and the C++ library say where the limit refuses them memory.
REFUSALS = ("OOM when allocating", "ResourceExhausted", "RESOURCE_EXHAUSTED", "MemoryError")
REFUSALS += ("bad_alloc", "out of memory", "Out of memory", "Cannot allocate memory")
REFUSALS += ("Cannot parse tensor from proto",)  # a constant of a graph


@dataclass(frozen=True)
class Task:
    """One training.

    Attributes
    ----------
    subject : one of SUBJECTS
    run : a run folder that is preprocessed; unread where `vocabulary` is given
    training : keys of TrainingConfig; what is not given is as in the run's config
    rows : interactions an epoch, a random part of all; None for all
    vocabulary : (users, items), ids alone, with `rows` random interactions
    target, seconds : NDCG@10 on test, asked after each epoch; peers stop when it is reached, or
        after so many seconds of training. Ours stops by itself
    """

    subject: str
    run: str
    training: dict[str, Any]
    rows: int | None = None
    vocabulary: tuple[int, int] | None = None
    target: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Trained:
    """What a task measured; GB are 10^9 bytes.

    Attributes
    ----------
    rows : interactions an epoch
    seconds, losses : of every epoch; the first one includes tracing and compiling
    scores : NDCG@10 on test after every epoch of a task with a target
    baseline_gb, peak_gb : resident memory before the model was built, and at its largest
    tables_gb : variables of the model and of its optimizer
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
        """Of the epochs after the first, their median."""
        return self.rows / median(self.seconds[1:])

    @property
    def warm_up_s(self) -> float:
        """What the first epoch took more than the others."""
        return self.seconds[0] - median(self.seconds[1:])


def measure(task: Task, memory_gb: int, limit_s: float) -> Trained | str:
    """Run the task in a process of its own; why there is no figure where a limit ended it.

    `limit_s` counts everything, imports and evaluations included. Raises ClickException when the
    process fails for another reason.
    """
    command = [sys.executable, "-m", "benchmarks.training_process", json.dumps(asdict(task))]
    try:
        with child([*command, f"--memory-gb={memory_gb}"]) as process:
            output, log = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        return f"not done in {limit_s:g} s"
    if process.returncode == 0:
        return Trained(**json.loads(output.splitlines()[-1]))
    if any(refusal in log for refusal in REFUSALS):
        return f"out of memory (limit {memory_gb} GB)"
    raise click.ClickException(f"{task} ended with {process.returncode}: {log[-2000:]}")


class Watch:
    """Scores the model after every epoch of a task with a target."""

    def __init__(self, task: Task, score: Callable[[Any], float] | None) -> None:
        self.task, self.score, self.scores = task, score, []

    def __call__(self, model: Any) -> float:
        """The score, always 0 without a target."""
        if self.score is None:
            return 0.0
        self.scores.append(self.score(model))
        return self.scores[-1]

    def enough(self, seconds: float) -> bool:
        """Whether `seconds` of training were enough, to the target or for it."""
        if self.score is None:
            return False
        return self.scores[-1] >= self.task.target or seconds >= self.task.seconds


def train(task: Task) -> Trained:
    """Train as the task says, in this process."""
    from twotower.models.training.config import TrainingConfig
    from twotower.pipelines.run import Run

    run = None if task.vocabulary else Run(Path(task.run))
    schema, data = _data(task, run)
    recipe = run.config.training if run else TrainingConfig()
    config = TrainingConfig.parse_obj({**recipe.dict(), **task.training})
    baseline = _resident_gb("VmRSS")
    subject = _subject(task.subject)(schema, data, config)
    watch = Watch(task, _test_score(run, data) if task.target else None)
    seconds, losses = subject.fit(watch)
    variables = [*subject.model.variables, *subject.model.optimizer.variables]
    return Trained(
        rows=len(data.user_rows) // config.batch_size * config.batch_size,
        seconds=seconds,
        losses=losses,
        scores=watch.scores,
        baseline_gb=baseline,
        peak_gb=_resident_gb("VmHWM"),
        tables_gb=sum(each.shape.num_elements() * each.dtype.size for each in variables) / 1e9,
    )


def _subject(name: str) -> type:
    from benchmarks.training_subjects import Ours, Stock

    if name not in (TFRS, TFRS_XLA):
        return Stock if name == STOCK else Ours
    from benchmarks.training_tfrs import CompiledRecommenders, Recommenders

    return Recommenders if name == TFRS else CompiledRecommenders


def _data(task: Task, run: Run | None) -> tuple[Schema, TrainingData]:
    from benchmarks.training_subjects import a_part, made_up, without_lists

    if run is None:
        return made_up(*task.vocabulary, task.rows)
    from merlin.schema.io.tensorflow_metadata import TensorflowMetadata

    from twotower.pipelines.steps.preprocess import SCHEMA, load_training_data

    text = TensorflowMetadata.from_proto_text_file(str(run.path / "processed"), SCHEMA)
    schema, data = text.to_merlin_schema(), load_training_data(run)
    if task.subject != OURS:
        schema, data = without_lists(schema, data)
    return schema, data if task.rows is None else a_part(data, task.rows)


def _test_score(run: Run, data: TrainingData) -> Callable[[Any], float]:
    """From a model to its NDCG@10 on test, train and valid masked."""
    from twotower.models.two_tower import TowerScorer
    from twotower.pipelines.steps.evaluate import Evaluator

    evaluator = Evaluator(run, "test")

    def score(model: Any) -> float:
        scorer = TowerScorer.of(model, data.users, data.items)
        return evaluator.evaluate(scorer).values[METRIC]

    return score


def _resident_gb(kind: str) -> float:
    """VmRSS, resident now, or VmHWM, the most until now; unlike ru_maxrss without the parent's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if kind in line)
    return int(line.split()[1]) * 1024 / 1e9


@click.command()
@click.argument("task")
@click.option("--memory-gb", type=int, required=True, help="No more than this may be allocated.")
def main(task: str, memory_gb: int) -> None:
    """Train once, as TASK says."""
    from twotower.pipelines.cli import quiet

    quiet()
    resource.setrlimit(resource.RLIMIT_DATA, (memory_gb * 10**9,) * 2)
    trained = train(Task(**json.loads(task)))
    click.echo(json.dumps(asdict(trained)))


if __name__ == "__main__":
    main()
