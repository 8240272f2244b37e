"""Choose which version of a run is served: publish one, roll back, list them."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from twotower.pipelines.console import console, stage
from twotower.pipelines.errors import RunError
from twotower.pipelines.run import TRITON, Run
from twotower.pipelines.run.manifest import recorded
from twotower.pipelines.steps.serve import RunningServer, running_server
from twotower.serving.repository import ModelRepository, Version
from twotower.serving.runtime.filters.denied import DENIED_FILE, read_denied
from twotower.serving.triton.control import ModelControl

MAX_NAMED = 5
"""Denied items that `versions` names."""


def publish(
    run: Run, number: int | None = None, *, replaces: int | None = None, anyway: bool = False
) -> int:
    """Serve a version from now on; a running server loads it at once.

    Parameters
    ----------
    run : Run
        The run that has the version.
    number : int, optional
        The version; default: the newest.
    replaces : int, optional
        The version that must be the published one; default: any.
    anyway : bool
        Only warn if the verdict of the evaluation speaks against the version.

    Returns
    -------
    int
        The published version.

    Raises
    ------
    RunError
        If another version than `replaces` has been published in the meantime, or the verdict of
        the evaluation is that a baseline is at least as good as the version.
    ServingError
        If the version is damaged or does not load; the earlier version stays published.
    """

    def change(repository: ModelRepository, control: ModelControl | None) -> int:
        if replaces is not None and repository.published != replaces:
            raise RunError(
                f"version {number} was compared with version {replaces}, but version "
                f"{repository.published} has been published in the meantime; run this command again"
            )
        return repository.publish(number, control)

    if against := _objection(run, number):
        if not anyway:
            raise RunError(
                f"{run.path}: {against}. `twotower publish --anyway` publishes it nevertheless"
            )
        console.print(f"[bold red]warning[/] {escape(against)}; it is published anyway")
    return _change(run, "publish", change)


def _objection(run: Run, number: int | None) -> str | None:
    """What the latest evaluation says against version `number`; None if it is of other towers."""
    if "evaluate" not in run.manifest["steps"]:
        return None
    versions = ModelRepository(run.path / TRITON).versions()
    asked = [version for version in versions if number in (None, version.number)]
    evaluated = recorded(run.path, "evaluate", "made_from")["train"]
    if not asked or asked[-1].towers_sha256 != evaluated:
        return None
    # Reports of earlier versions of this project have no verdict.
    return recorded(run.path, "evaluate", "notes").get("verdict", {}).get("objection")


def rollback(run: Run) -> int:
    """Publish the version that was published before the current one, and return its number."""
    return _change(run, "rollback", lambda repository, control: repository.rollback(control))


def _change(
    run: Run, name: str, change: Callable[[ModelRepository, ModelControl | None], int]
) -> int:
    repository = ModelRepository(run.path / TRITON)
    with stage(name) as (progress, result):
        progress(0, 1, "wait for other commands that publish")
        # A server that starts waits for the lock, so it is found here or reads the new state.
        with repository.lock():
            server = running_server(run)
            control = server.control(run.config.serving.startup_seconds) if server else None
            progress(0, 1, "check and load the files" if control else "check the files")
            started = time.perf_counter()
            version = change(repository, control)
            seconds = time.perf_counter() - started
            repository.prune(run.config.serving.keep_versions)
        if control:
            result(f"version {version}: the running server loaded it in {seconds:.1f} s")
        elif server:
            result(
                f"version {version}: the running server's Triton cannot load it; restart "
                "`twotower serve`"
            )
        else:
            result(f"version {version}: the next `twotower serve` will serve it")
    return version


def versions(run: Run) -> list[Version]:
    """Print the run's versions, with the one that is published and the one that answers."""
    found = ModelRepository(run.path / TRITON).versions()
    server = running_server(run)
    answers = answering(server) if server else None
    table = Table(title=Text(str(run.path)), title_justify="left", box=None)
    for column in ("version", "created (UTC)", "towers", "runtime", "MB", "published", "answers"):
        is_number = column in ("version", "MB")
        table.add_column(column, justify="right" if is_number else "left", no_wrap=True)
    for each in found:
        table.add_row(
            str(each.number),
            each.created[:16].replace("T", " "),
            each.towers_sha256[:12],
            each.runtime,
            f"{each.bytes / 1e6:.1f}",
            "yes" if each.published else "",
            "yes" if each.number == answers else "",
        )
    console.print(table)
    if server:
        console.print(f"served by process {server.pid}: http {server.http}, grpc {server.grpc}")
    if denied := read_denied(run.path / TRITON / DENIED_FILE):
        some = ", ".join(map(str, denied[:MAX_NAMED])) + (" ..." if denied[MAX_NAMED:] else "")
        console.print(escape(f"{len(denied):,} items are in no answer of any version ({some})"))
    if not found:
        console.print("no version yet; `twotower export` makes one")
    return found


def answering(server: RunningServer) -> int:
    """The version with which the server answers."""
    from twotower.serving.client import RetrievalClient

    with RetrievalClient(server.http) as client:
        return client.version()
