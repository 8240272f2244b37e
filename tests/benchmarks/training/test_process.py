"""Trainings in processes with limits."""

from __future__ import annotations

import click
import pytest

from benchmarks.training.process import OURS, Task, TrainingResult, measure


def test_the_first_epoch_is_warm_up(trained):
    measured = trained(100.0)
    assert measured.rows_per_s == pytest.approx(100)
    assert measured.warm_up_s == pytest.approx(7)


def measure_random(users: int, seconds: float = 300, **training) -> TrainingResult | str:
    """Train on random data of this many users and 50 items."""
    training = {"batch_size": 1_024, "epochs": 3, "patience": 3, **training}
    task = Task(subject=OURS, run="", training=training, rows=4_096, vocabulary=(users, 50))
    return measure(task, memory_gb=4, limit_s=seconds)


@pytest.mark.slow
def test_a_process_measures_its_time_and_memory():
    measured = measure_random(users=100)
    assert measured.rows == 4_096
    assert len(measured.seconds) == len(measured.losses) == 3
    assert 0.1 < measured.baseline_gb < measured.peak_gb < 4


@pytest.mark.slow
def test_a_training_that_needs_too_much_memory_is_ended():
    assert measure_random(users=30_000_000) == "out of memory (limit 4 GB)"


def test_a_training_that_takes_too_long_is_ended():
    assert measure_random(users=100, seconds=0.5) == "not done in 0.5 s"


@pytest.mark.slow
def test_a_wrong_setting_is_an_error():
    with pytest.raises(click.ClickException, match="batch_size is 5000"):
        measure_random(users=100, batch_size=5_000)
