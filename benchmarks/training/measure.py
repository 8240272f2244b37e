"""Parts `speed`, `quality`, `vocabulary` and `memory`: trainings within limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks.report import RESULTS, Check, Rows, machine
from benchmarks.training import plot
from benchmarks.training.process import (
    NO_LISTS,
    OURS,
    STOCK,
    SUBJECTS,
    Task,
    TrainingResult,
    measure,
)
from benchmarks.training.summary import (
    BATCHES,
    TARGET,
    SpeedResults,
    curve,
    print_speeds,
    quality_checks,
    seconds_to_target,
    speed_checks,
)
from twotower.models.training.config import TrainingConfig

ROWS_PER_EPOCH = {1_024: 1 << 18, 4_096: 1 << 18, 16_384: 1 << 17, 65_536: 1 << 17}
# Fast subjects train for more epochs, so that all are measured for about as long.
EPOCHS = {OURS: 6, NO_LISTS: 6}
MIN_EPOCHS = 3  # the first one is warm-up
UNLIMITED_EPOCHS = 1_000
# The peers have no learning-rate schedule. Ours uses the lazy Adam of its configuration: the same
# as Adam, except that a row catches up on skipped steps at its next gradient.
ADAM = {"learning_rate": 0.005, "learning_rate_decay": 1.0}
# At 16,384, one epoch of stock Merlin takes longer than the whole training at 1,024.
PEERS = {STOCK: (1_024, 4_096)}
# Rates around one that grows with the square root of the batch size; 0.001 is Keras's default.
LEARNING_RATES = {
    1_024: (0.005, 0.001, 0.02),
    4_096: (0.01, 0.001, 0.005, 0.02),
    16_384: (0.02, 0.001, 0.01, 0.05),
}
VOCABULARIES = ((100_000, 50_000), (1_000_000, 500_000))  # users, items
STEP_BATCHES = (4_096,)
OPTIMIZERS = (TrainingConfig().optimizer, "adam")
SMALL, LARGE = 4_096, 65_536


@dataclass(frozen=True)
class Limits:
    """How often a speed is measured, and what one training may use.

    Attributes
    ----------
    rounds : int
        Measurements per speed.
    seconds : float
        For a process that measures a speed, and for the training time of a curve.
    memory_gb : int
        What one process may allocate, in 10^9 bytes.
    """

    rounds: int
    seconds: float
    memory_gb: int


def speed(run: Path, limits: Limits) -> tuple[Rows, list[Check]]:
    """Measure rows/s, warm-up and resident memory of every subject at every batch size.

    Parameters
    ----------
    run : Path
        A preprocessed run on the frozen split of ML-1M.
    limits : Limits
    """
    results = SpeedResults()
    for turn in range(limits.rounds):
        for number, batch_size in enumerate(BATCHES):
            first = (turn + number) % len(SUBJECTS)
            for subject in (*SUBJECTS[first:], *SUBJECTS[:first]):
                # A subject that exceeded a limit would exceed it again.
                if not results.failure(subject, batch_size):
                    task = _speed_task(run, subject, {**ADAM, "batch_size": batch_size})
                    results.add(subject, batch_size, _measure(task, limits))
    records = results.records()
    print_speeds(records)
    title = (
        f"Training on ML-1M, {_machine()}: two towers of 64 dimensions, Adam\n"
        f"A line ends where {limits.memory_gb} GB or {limits.seconds:g} s were not enough"
    )
    plot.draw_speed(records, title, RESULTS / "training_speed.png")
    rows = {"rounds": limits.rounds, "memory limit, GB": limits.memory_gb, "cells": records}
    return {"speed": rows}, speed_checks(results)


def _speed_task(run: Path, subject: str, training: dict[str, Any]) -> Task:
    epochs = EPOCHS.get(subject, MIN_EPOCHS)
    return Task(
        subject=subject,
        run=str(run),
        training={"epochs": epochs, "patience": epochs, **training},
        rows=ROWS_PER_EPOCH[training["batch_size"]],
    )


def _measure(task: Task, limits: Limits) -> TrainingResult | str:
    """Measure a task and print its speed; return why it failed if it exceeded a limit."""
    found = measure(task, memory_gb=limits.memory_gb, limit_s=limits.seconds)
    users = f" of {task.vocabulary[0]:,} users" if task.vocabulary else ""
    shown = found if isinstance(found, str) else f"{found.rows_per_s:,.0f} rows/s"
    optimizer = task.training.get("optimizer", "configured optimizer")
    size = task.training["batch_size"]
    click.echo(f"  batch {size:,}{users}, {task.subject}, {optimizer}: {shown}")
    return found


def _measure_within(task: Task, limits: Limits) -> TrainingResult:
    """Measure a task; raise ClickException if it exceeds a limit."""
    found = _measure(task, limits)
    if isinstance(found, str):
        raise click.ClickException(f"{task}: {found}")
    return found


def _machine() -> str:
    host = machine()
    return f"{host['cpu']}, {host['cores']} cores"


def quality(run: Path, limits: Limits) -> tuple[Rows, list[Check]]:
    """Measure the training time until a test NDCG@10, for each subject's best settings."""
    # The configuration as it is, and with a larger batch.
    ours: tuple[dict[str, Any], ...] = (
        {"epochs": 8},
        {"epochs": 8, "batch_size": 8_192, "learning_rate": 0.02},
    )
    curves = [
        _curve(run, limits, subject=OURS, training=training, seconds=limits.seconds)
        for training in ours
    ]
    for subject, batch_sizes in PEERS.items():
        best = limits.seconds
        for batch_size in batch_sizes:
            for rate in LEARNING_RATES[batch_size]:
                training = {**ADAM, "batch_size": batch_size, "learning_rate": rate}
                training["epochs"] = UNLIMITED_EPOCHS
                # A training that takes longer than the best so far can stop.
                curves.append(_curve(run, limits, subject, training, seconds=best))
                best = min(best, seconds_to_target(curves[-1]))
    title = f"Training on the frozen split of ML-1M, {_machine()}"
    plot.draw_quality(curves, title, RESULTS / "training_quality.png")
    rows = {"target": TARGET, "limit, s": limits.seconds, "curves": curves}
    return {"quality": rows}, quality_checks(curves, limits.seconds)


def _curve(
    run: Path, limits: Limits, subject: str, training: dict[str, Any], seconds: float
) -> dict[str, Any]:
    task = Task(subject=subject, run=str(run), training=training, target=TARGET, seconds=seconds)
    # The process also needs time for imports and evaluations, which are no training time.
    found = curve(task, measure(task, memory_gb=limits.memory_gb, limit_s=3 * seconds + 120))
    reached = seconds_to_target(found)
    click.echo(f"  {subject}, {training}: {reached:.1f} s to NDCG@10 {TARGET}")
    return found


def vocabulary(run: Path, limits: Limits) -> tuple[Rows, list[Check]]:
    """Measure milliseconds per step with ten times the users and items, by optimizer."""
    rows: Rows = {"users and items": VOCABULARIES}
    checks = []
    for optimizer, size in product(OPTIMIZERS, STEP_BATCHES):
        # A state of gigabytes must not be written within the measured time.
        training = {"optimizer": optimizer, "batch_size": size, "checkpoint_seconds": 3600}
        tasks = [
            replace(_speed_task(run, OURS, training), vocabulary=each) for each in VOCABULARIES
        ]
        rounds = [[_measure_within(task, limits) for task in tasks] for _ in range(limits.rounds)]
        small, large = (
            round(median(1e3 * size / each.rows_per_s for each in column), 2)
            for column in zip(*rounds, strict=True)
        )
        ratio = round(large / small, 3)
        rows[f"{optimizer}, {size:,}"] = {
            "ms per step": [small, large],
            "ratio": ratio,
            "peak GB of the larger": round(max(each.peak_gb for _, each in rounds), 2),
        }
        if optimizer == TrainingConfig().optimizer:
            name = f"vocabulary ten times as large, {optimizer} at {size:,}: time per step, ratio"
            checks.append(Check(name, ratio, "<=", 1.2))
    return {"vocabulary": rows}, checks


def memory(run: Path, limits: Limits) -> tuple[Rows, list[Check]]:
    """Measure our resident memory at batch sizes of 4,096 and 65,536."""
    small, large = (
        _measure_within(_speed_task(run, OURS, {"batch_size": size}), limits)
        for size in (SMALL, LARGE)
    )
    # Embedding tables have the same size at every batch size.
    ratio = round((large.peak_gb - large.tables_gb) / small.peak_gb, 3)
    rows = {
        f"batch {size:,}": {
            "GB before the model": round(each.baseline_gb, 2),
            "peak GB": round(each.peak_gb, 2),
            "tables GB": round(each.tables_gb, 3),
        }
        for size, each in ((SMALL, small), (LARGE, large))
    }
    return {"memory": rows}, [
        Check(f"peak resident GB at {LARGE:,}", round(large.peak_gb, 2), "<=", 6),
        Check(f"peak at {LARGE:,} without the tables, over {SMALL:,}", ratio, "<=", 1.5),
    ]
