"""Ratios, checks and curves from known trainings; the day that is parted from a data set."""

from __future__ import annotations

from dataclasses import replace

import click
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import serving, training
from benchmarks.training_cells import (
    BATCHES,
    Paces,
    curve,
    quality_checks,
    reached,
    speed_checks,
)
from benchmarks.training_commands import _differences, _moved, write_day
from benchmarks.training_process import (
    NO_LISTS,
    OURS,
    STOCK,
    SUBJECTS,
    TFRS,
    TFRS_XLA,
    Task,
    Trained,
    measure,
)

REFUSED = "out of memory (limit 18 GB)"
PACES = {OURS: 90.0, NO_LISTS: 100.0, STOCK: 20.0, TFRS: 25.0, TFRS_XLA: 40.0}


@pytest.mark.parametrize("benchmark", [training, serving])
def test_a_missing_load_generator_is_told_before_anything_is_done(benchmark, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    # Without ratings whatever is begun fails otherwise.
    result = CliRunner().invoke(benchmark.main, ["--data", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output == "Error: wrk is missing: apt-get install wrk\n"


def trained(rows_per_s: float) -> Trained:
    """Epochs of 1,000 rows, the first with 7 s of warm-up."""
    seconds = 1_000 / rows_per_s
    return Trained(1_000, [seconds + 7, seconds, seconds], [3.0, 2.0, 1.0], [], 0.7, 1.5, 0.01)


@pytest.fixture
def paces() -> Paces:
    """Three rounds, one of them twice as fast; peers have no memory for the largest batch."""
    found = Paces()
    for batch_size in BATCHES:
        for subject, pace in PACES.items():
            for factor in (1.0, 2.0, 1.0):
                refused = batch_size == BATCHES[-1] and subject not in (OURS, NO_LISTS)
                found.add(subject, batch_size, REFUSED if refused else trained(pace * factor))
    return found


def test_the_first_epoch_is_warm_up():
    measured = trained(100.0)
    assert measured.rows_per_s == pytest.approx(100)
    assert measured.warm_up_s == pytest.approx(7)


def test_records_are_medians_or_the_reason_why_not(paces):
    records = {(r["subject"], r["batch_size"]): r for r in paces.records()}
    assert len(records) == len(SUBJECTS) * len(BATCHES)
    assert records[STOCK, 4_096]["rows_per_s"] == 20
    assert records[STOCK, 4_096]["rounds_rows_per_s"] == [20, 40, 20]
    assert records[STOCK, 65_536] == {
        "subject": STOCK,
        "batch_size": 65_536,
        "refused": REFUSED,
    }


def test_ratios_are_to_the_faster_of_the_peers(paces):
    values = {check.name: check.value for check in speed_checks(paces)}
    assert values["rows/s at 4,096: ours over stock"] == 5.0
    assert values["rows/s at 4,096: ours over TFRS"] == 2.5
    assert values["rows/s at 4,096: with genres over without"] == 0.9
    assert all(check.holds for check in speed_checks(paces))


def test_a_peer_that_was_refused_is_not_the_faster_one(paces):
    paces.add(TFRS_XLA, 4_096, REFUSED)
    assert paces.ratio(NO_LISTS, (TFRS, TFRS_XLA), 4_096) == 4.0


def at(subject: str, *scores: float, **training) -> dict:
    """The curve of a training of 10 s an epoch."""
    seconds = [10.0] * len(scores)
    measured = replace(trained(100.0), seconds=seconds, scores=list(scores))
    return curve(Task(subject, "run", training), measured)


def test_the_target_is_reached_with_the_first_score_that_is_enough():
    assert reached(at(OURS, 0.2, 0.25, 0.24)) == 20
    assert reached(at(OURS, 0.2, 0.23)) == float("inf")
    assert reached(curve(Task(STOCK, "run", {}), REFUSED)) == float("inf")


def test_ours_is_beside_the_best_of_stock():
    curves = [at(OURS, 0.25), at(STOCK, *[0.1] * 7, 0.24), at(STOCK, *[0.1] * 4, 0.24)]
    (check,) = quality_checks(curves, limit_s=100)
    assert check.value == 0.2
    (check,) = quality_checks([at(OURS, 0.25), at(STOCK, 0.1)], limit_s=100)
    assert check.value == 0.1


def test_plots_are_drawn_of_whatever_was_measured(paces, tmp_path):
    from benchmarks.training_plot import draw_quality, draw_speed

    draw_speed(paces.records(), "speed", tmp_path / "speed.png")
    curves = [at(OURS, 0.2, 0.25), at(STOCK, 0.1, batch_size=1_024, learning_rate=0.005)]
    draw_quality([*curves, curve(Task(STOCK, "run", {}), REFUSED)], "q", tmp_path / "quality.png")
    assert {path.name for path in tmp_path.iterdir()} == {"speed.png", "quality.png"}


def test_values_that_differ_or_are_missing_are_named():
    assert _differences({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.5, "c": 0.0}) == ["b", "c"]


def test_a_day_has_all_of_its_users_and_items_and_some_of_the_others(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    users, items = range(1, 101), range(1, 201)
    (source / "users.dat").write_text("".join(f"{user}::F::1::10::48067\n" for user in users))
    (source / "movies.dat").write_text("".join(f"{item}::É ({item})::Drama\n" for item in items))
    ratings = [f"{user}::{item}::5::978300760\n" for user in users for item in items]
    (source / "ratings.dat").write_text("".join(ratings))
    new = write_day(source, tmp_path / "base", tmp_path / "day")
    assert (len(new["users"]), len(new["items"])) == (2, 2)
    lines = {
        folder: {
            name: (tmp_path / folder / f"{name}.dat").read_text().splitlines(keepends=True)
            for name in ("ratings", "users", "movies")
        }
        for folder in ("base", "day")
    }
    assert sorted(lines["base"]["ratings"] + lines["day"]["ratings"]) == sorted(ratings)
    pairs = np.array([line.split("::")[:2] for line in lines["base"]["ratings"]], int)
    assert not np.isin(pairs[:, 0], new["users"]).any()
    assert not np.isin(pairs[:, 1], new["items"]).any()
    assert len(lines["base"]["users"]) == 98
    assert len(lines["base"]["movies"]) == 198
    for position, name in ((0, "users"), (1, "movies")):
        listed = {line.split("::")[0] for line in lines["day"][name]}
        assert listed == {line.split("::")[position] for line in lines["day"]["ratings"]}


def made_up(users: int, seconds: float = 100, **training) -> Trained | str:
    training = {"batch_size": 1_024, "epochs": 3, "patience": 3, **training}
    task = Task(OURS, "", training, rows=4_096, vocabulary=(users, 50))
    return measure(task, memory_gb=4, limit_s=seconds)


def test_a_process_measures_itself():
    measured = made_up(users=100)
    assert measured.rows == 4_096
    assert len(measured.seconds) == len(measured.losses) == 3
    assert 0.1 < measured.baseline_gb < measured.peak_gb < 4


def test_what_does_not_fit_is_out_of_memory():
    assert made_up(users=30_000_000) == "out of memory (limit 4 GB)"


def test_what_takes_too_long_is_not_done():
    assert made_up(users=100, seconds=0.5) == "not done in 0.5 s"


def test_a_wrong_setting_is_no_figure():
    with pytest.raises(click.ClickException, match="batch_size is 5000"):
        made_up(users=100, batch_size=5_000)


def test_old_codes_stay_and_new_ones_come_in():
    old = [(np.array([5, 7, 8]), {"code": np.array([[3], [2], [4]])})]
    new = [(np.array([5, 6, 7, 8]), {"code": np.array([[3], [6], [5], [4]])})]
    assert _moved(old, new) == 0
    new[0][1]["code"][3] = 7
    assert _moved(old, new) == 1
