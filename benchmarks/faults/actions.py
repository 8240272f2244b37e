"""What the commands do to a run folder; each function runs in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults.state import find_damage, model_repository, step_identity
from twotower.pipelines.errors import RunError
from twotower.pipelines.run import MANIFEST, STAGING, Run
from twotower.serving.runtime.manifest import sha256


def perform(verb: str, path: Path, day: Path | None = None) -> dict[str, Any]:
    """Perform a verb of the command line on a run folder.

    Parameters
    ----------
    verb : str
    path : Path
        The run folder.
    day : Path, optional
        Folder of new data; needed by `update`.

    Returns
    -------
    dict
        "number" is the version that the verb returned, or None. "whole" says whether all that it
        read was whole. "commits" has one entry per manifest that it wrote: the hashes of the
        "replaced" and the "new" one, and whether the new steps were made from "current" files.
        "refused" is the message of an `update` that was refused after its commits, because another
        command had published a version; it keeps its model and its version for the next `update`.
    """
    from twotower.pipelines.console import console
    from twotower.pipelines.steps.evaluate import evaluate
    from twotower.pipelines.steps.export import export
    from twotower.pipelines.steps.ingest import ingest
    from twotower.pipelines.steps.preprocess import preprocess
    from twotower.pipelines.steps.publish import publish, rollback, versions
    from twotower.pipelines.steps.train import train
    from twotower.pipelines.steps.update import update

    console.quiet = True
    commits: list[dict[str, Any]] = []
    sys.addaudithook(partial(_record_commit, commits))
    verbs: dict[str, Callable[[Run], Any]] = {
        "ingest": partial(ingest, remember=False),
        "preprocess": preprocess,
        "train": train,
        "evaluate": evaluate,
        "export": lambda run: export(run)["version"],
        "publish": partial(publish, anyway=True),
        "rollback": rollback,
        "update": partial(update, folder=day),
        "versions": lambda run: [version.created != "damaged" for version in versions(run)],
    }
    refused = None
    try:
        returned = verbs[verb](Run(path))
    except RunError as error:
        if not commits:
            raise
        returned, refused = Run(path).notes("export")["version"], str(error)
    number = returned if verb in ("export", "publish", "rollback", "update") else None
    whole = all(returned) if verb == "versions" else True
    return {"number": number, "whole": whole, "commits": commits, "refused": refused}


def _record_commit(commits: list[dict[str, Any]], event: str, arguments: tuple) -> None:
    """Audit hook: record a rename that replaces the run's manifest."""
    if event == "os.rename" and str(arguments[0]).endswith(f"/{STAGING}/{MANIFEST}"):
        staged, old = Path(arguments[0]), Path(arguments[1])
        new_steps = json.loads(staged.read_text())["steps"]
        old_steps = json.loads(old.read_text())["steps"] if old.is_file() else {}
        commits.append(
            {
                "replaced": sha256(old) if old.is_file() else None,
                "new": sha256(staged),
                "current": all(
                    step_identity(new_steps[upstream]) == identity
                    for name, step in new_steps.items()
                    if step != old_steps.get(name)
                    for upstream, identity in step["made_from"].items()
                ),
            }
        )


def recover(path: Path) -> list[str]:
    """Open the run and take its lock, as any next command does; return the damage that is left."""
    run = Run(path)
    with run.writing("next"):
        return find_damage(path)


def publish_other(path: Path) -> dict[str, Any]:
    """Publish the one of the last two versions that is not published."""
    from twotower.pipelines.console import console
    from twotower.pipelines.steps.publish import publish

    console.quiet = True
    repository = model_repository(path)
    *_, one, other = (version.number for version in repository.versions())
    chosen = one if repository.published == other else other
    return {"number": publish(Run(path), chosen, anyway=True)}
