"""Ratios, checks, curves and plots of known trainings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.training.plot import draw_quality, draw_speed
from benchmarks.training.process import (
    NO_LISTS,
    OURS,
    STOCK,
    SUBJECTS,
    TFRS,
    TFRS_XLA,
    Task,
)
from benchmarks.training.summary import (
    BATCHES,
    SpeedResults,
    curve,
    quality_checks,
    seconds_to_target,
    speed_checks,
)

FAILURE = "out of memory (limit 18 GB)"
SPEEDS = {OURS: 90.0, NO_LISTS: 100.0, STOCK: 20.0, TFRS: 25.0, TFRS_XLA: 40.0}


@pytest.fixture
def results(trained) -> SpeedResults:
    """Three rounds, one twice as fast; the peers need too much memory for the largest batch."""
    found = SpeedResults()
    for batch_size in BATCHES:
        for subject, speed in SPEEDS.items():
            for factor in (1.0, 2.0, 1.0):
                fails = batch_size == BATCHES[-1] and subject not in (OURS, NO_LISTS)
                found.add(subject, batch_size, FAILURE if fails else trained(speed * factor))
    return found


def test_records_are_medians_or_the_reason_why_not(results):
    records = {(r["subject"], r["batch_size"]): r for r in results.records()}
    assert len(records) == len(SUBJECTS) * len(BATCHES)
    assert records[STOCK, 4_096]["rows_per_s"] == 20
    assert records[STOCK, 4_096]["rounds_rows_per_s"] == [20, 40, 20]
    assert records[STOCK, 65_536] == {
        "subject": STOCK,
        "batch_size": 65_536,
        "failed": FAILURE,
    }


def test_ratios_are_over_the_faster_peer(results):
    values = {check.name: check.value for check in speed_checks(results)}
    assert values["rows/s at 4,096: ours over stock"] == 5.0
    assert values["rows/s at 4,096: ours over TFRS"] == 2.5
    assert values["rows/s at 4,096: with genres over without"] == 0.9
    assert all(check.holds for check in speed_checks(results))


def test_a_peer_that_failed_is_not_the_faster_one(results):
    results.add(TFRS_XLA, 4_096, FAILURE)
    assert results.ratio(NO_LISTS, (TFRS, TFRS_XLA), 4_096) == 4.0


@pytest.fixture
def at(trained):
    """A function that makes the curve of a training with 10 s per epoch."""

    def make(subject: str, scores: list[float], **training) -> dict:
        result = replace(trained(100.0), seconds=[10.0] * len(scores), scores=scores)
        return curve(Task(subject, "run", training), result)

    return make


def test_the_target_is_reached_at_the_first_score_that_is_enough(at):
    assert seconds_to_target(at(OURS, [0.2, 0.25, 0.24])) == 20
    assert seconds_to_target(at(OURS, [0.2, 0.23])) == float("inf")
    assert seconds_to_target(curve(Task(STOCK, "run", {}), FAILURE)) == float("inf")


def test_ours_is_compared_with_the_best_of_stock(at):
    curves = [at(OURS, [0.25]), at(STOCK, [0.1] * 7 + [0.24]), at(STOCK, [0.1] * 4 + [0.24])]
    (check,) = quality_checks(curves, limit_s=100)
    assert check.value == 0.2
    (check,) = quality_checks([at(OURS, [0.25]), at(STOCK, [0.1])], limit_s=100)
    assert check.value == 0.1


def test_plots_are_drawn_of_all_kinds_of_results(results, at, tmp_path):
    draw_speed(results.records(), "speed", tmp_path / "speed.png")
    stock = at(STOCK, [0.1], batch_size=1_024, learning_rate=0.005)
    failed = curve(Task(STOCK, "run", {}), FAILURE)
    draw_quality([at(OURS, [0.2, 0.25]), stock, failed], "q", tmp_path / "quality.png")
    assert {path.name for path in tmp_path.iterdir()} == {"speed.png", "quality.png"}
