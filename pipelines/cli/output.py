"""`--json`: the result of a command as JSON on stdout, and all other output on stderr."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from twotower.pipelines.answers.similar import Similar
    from twotower.pipelines.experiments.comparison import Comparison
    from twotower.pipelines.run import Run
    from twotower.pipelines.timeline import Timeline
    from twotower.serving.client import Recommendations
    from twotower.serving.doctor import Check
    from twotower.serving.repository import Version

Result = TypeVar("Result")


def output(as_json: bool, work: Callable[[], Result], plain: Callable[[Result], Any]) -> Result:
    """Call `work`; with `as_json` also print its result as JSON.

    Parameters
    ----------
    as_json : bool
        Print `plain(result)` as JSON on stdout, and send what `work` prints to stderr.
    work : callable
        The command.
    plain : callable
        Converts the result of `work` to what JSON can represent.

    Returns
    -------
    object
        What `work` returns.
    """
    if not as_json:
        return work()
    with contextlib.redirect_stdout(sys.stderr):
        result = work()
        value = _without_nan(plain(result))
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
    return result


def _without_nan(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain_versions(run: Run, versions: Sequence[Version]) -> list[dict[str, Any]]:
    """Return the versions of a run, and for each whether the run's server answers with it."""
    from twotower.pipelines.steps.publish import answering
    from twotower.pipelines.steps.serve import running_server

    server = running_server(run)
    answers = answering(server) if server else None
    return [{**asdict(each), "answers": each.number == answers} for each in versions]


def plain_checks(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """Return the checks of `doctor`."""
    return [asdict(check) for check in checks]


def plain_run(run: Run) -> dict[str, Any]:
    """Return what a main job made: its folder, metrics, verdict and version."""
    return {
        "run": str(run.path),
        "recipes": run.notes("preprocess").get("recipes"),
        **run.notes("evaluate"),
        "version": run.notes("export")["version"],
    }


def plain_version(number: int) -> dict[str, int]:
    """Return the number of a version under its name."""
    return {"version": number}


def plain_recommendations(
    run: Run, users: Sequence[int | str], answers: dict[str, Recommendations]
) -> dict[str, Any]:
    """Return each user's items in order, with scores and the columns that `show` names."""
    from twotower.pipelines.steps.query import shown_items

    answer = next(iter(answers.values()))
    known = shown_items(run)
    asked = known[known.index.isin(answer.item_ids.ravel())]
    shown = json.loads(asked.to_json(orient="records", date_format="iso"))
    columns = dict(zip(asked.index.tolist(), shown, strict=True))

    def items(row: int) -> list[dict[str, Any]]:
        pairs = zip(answer.item_ids[row].tolist(), answer.scores[row].tolist(), strict=True)
        return [
            {"item": item, "score": score, "show": columns.get(item)}
            for item, score in pairs
            if math.isfinite(score)  # fewer unseen items are left than were asked for
        ]

    results = [{"user": user, "items": items(row)} for row, user in enumerate(users)]
    return {"version": answer.version, "users": results}


def plain_similar(found: Similar) -> dict[str, Any]:
    """Return the items similar to each item, with scores and the columns that `show` names."""
    results = []
    for item, rows in found.items.items():
        shown = found.shown.reindex(rows["item"])
        columns = json.loads(shown.to_json(orient="records", date_format="iso"))
        triples = zip(rows["item"].tolist(), rows["score"].tolist(), columns, strict=True)
        similar = [{"item": each, "score": score, "show": show} for each, score, show in triples]
        asked = {"items": list(item)} if isinstance(item, tuple) else {"item": item}
        results.append({**asked, "similar": similar})
    return {"version": found.version, "items": results}


def plain_timeline(timeline: Timeline) -> dict[str, Any]:
    """Return the steps of a timeline, each with its seconds by phase."""
    steps = [{**asdict(step), "by_phase": step.by_phase()} for step in timeline.steps]
    return {"seconds": timeline.seconds, "between": timeline.between, "steps": steps}


def plain_comparison(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the rows of a comparison, as in its rows.json."""
    from twotower.pipelines.experiments.rows import rows

    return [asdict(row) for row in rows(comparison)]
