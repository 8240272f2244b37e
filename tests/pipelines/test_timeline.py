"""The timeline: recorded steps and phases are those announced, and add up."""

from __future__ import annotations

import json
import time

import pytest
from rich.console import Console

from twotower.pipelines.console import stage
from twotower.pipelines.errors import RunError
from twotower.pipelines.job import show_timeline
from twotower.pipelines.timeline import (
    BETWEEN,
    PLOT,
    Span,
    Step,
    Timeline,
    plot_timeline,
    recorded,
    timeline_table,
)

TIMELINE = Timeline(
    seconds=10.0,
    steps=[
        Step("read", 0.0, 1.0),
        Step(
            "train",
            2.0,
            8.0,
            [
                Span("training", 2.0, 3.0),
                Span("validation", 5.0, 1.0),
                Span("training", 6.0, 3.96),
                Span("save", 9.96, 0.04),
            ],
        ),
    ],
)


def printed(timeline: Timeline) -> list[str]:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(timeline_table(timeline))
    return capture.get().splitlines()


def test_steps_and_phases_are_kept_in_order_and_add_up():
    with recorded() as timeline:
        with stage("one") as (report, _):
            report(0, 2, "a")
            time.sleep(0.02)
            report(1, 2, "b", "shown beside it")
            time.sleep(0.01)
            report(1, 2)  # no change
            report(phase="b")  # the current phase
            report(phase="a")
        with stage("two"):
            time.sleep(0.01)
    assert [step.name for step in timeline.steps] == ["one", "two"]
    one, two = timeline.steps
    assert [phase.name for phase in one.phases] == ["a", "b", "a"]
    assert two.phases == []
    assert one.phases[0].start == one.start
    for phase, following in zip(one.phases, one.phases[1:], strict=False):
        assert phase.start + phase.seconds == pytest.approx(following.start)
    assert sum(one.by_phase().values()) == pytest.approx(one.seconds)
    assert one.phases[0].seconds >= 0.02 and one.phases[1].seconds >= 0.01
    assert two.start >= one.start + one.seconds
    assert timeline.seconds >= one.seconds + two.seconds >= 0.04


def test_a_step_that_fails_ends_where_it_failed():
    with pytest.raises(ValueError), recorded() as timeline:
        with stage("good"):
            pass
        with stage("bad") as (report, _):
            report(0, 2, "begun")
            time.sleep(0.01)
            raise ValueError
    bad = timeline.steps[-1]
    assert [step.name for step in timeline.steps] == ["good", "bad"]
    assert bad.seconds == pytest.approx(bad.phases[0].seconds)
    assert timeline.seconds >= bad.seconds >= 0.01


def test_nothing_is_recorded_outside_of_a_recording():
    with recorded() as timeline:
        pass
    with stage("alone") as (report, _):
        report(0, 1, "phase")
    assert timeline.steps == []


def test_the_table_has_known_seconds_shares_and_places():
    lines = [line.split() for line in printed(TIMELINE)]
    assert [line[:-1] if "█" in line[-1] else line for line in lines[1:]] == [
        ["read", "1.0", "10%"],
        ["train", "8.0", "80%"],
        ["training", "7.0", "70%"],  # the sum of both
        ["validation", "1.0", "10%"],
        [*BETWEEN.split(), "1.0", "10%"],
        ["in", "all", "10.0"],
    ]  # `save` is too short for a line
    bars = {line.split()[0]: line for line in printed(TIMELINE)}
    assert bars["read"].index("█") < bars["train"].index("█")
    assert bars["train"].count("█") == pytest.approx(8 * bars["read"].count("█"), abs=8)


def test_a_written_timeline_is_read_unchanged(tmp_path):
    (tmp_path / "timeline.json").write_text(TIMELINE.to_json())
    assert Timeline.read(tmp_path / "timeline.json") == TIMELINE


def test_a_missing_or_damaged_timeline_is_explained(tmp_path):
    path = tmp_path / "timeline.json"
    with pytest.raises(
        RunError, match=r"no timeline; `twotower run` records one.*`twotower run --config"
    ):
        Timeline.read(path)
    for text in ("{", "[]", json.dumps({"seconds": 1.0, "steps": [{"name": "train"}]})):
        path.write_text(text)
        with pytest.raises(RunError, match=r"timeline.json: damaged"):
            Timeline.read(path)


def test_the_plot_is_a_picture(tmp_path):
    plot_timeline(TIMELINE, "a run", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_main_job_records_every_step(small_run):
    timeline = show_timeline(small_run)
    assert [step.name for step in timeline.steps] == [
        *("ingest", "import", "preprocess", "train", "evaluate", "export", "publish", "serve")
    ]
    assert (small_run.path / PLOT).is_file()
    assert 0 <= timeline.between < 0.2 * timeline.seconds
    serve = timeline.steps[-1]
    assert [*serve.by_phase()] == ["start Triton", "query over HTTP and gRPC", "stop Triton"]
    for step in timeline.steps:
        if step.phases:
            assert sum(step.by_phase().values()) == pytest.approx(step.seconds)
