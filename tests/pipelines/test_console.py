"""Console output shows names and paths as they are, whatever characters they have."""

from __future__ import annotations

import pytest

from twotower.pipelines.console import say, stage

NAMES = ["day[/]", "day[bold]", ":heart:", "[red]a[/red]"]


@pytest.mark.parametrize("name", NAMES)
def test_results_are_printed_as_they_are(capsys, name):
    with stage("ingest") as (report, result):
        report(1, 2, "read", name)
        result(f"{name}: nothing new")
    say(f"run folder: {name}")
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith(f" s  {name}: nothing new")
    assert second == f"run folder: {name}"
