"""Read the source, check it, and write the interactions, users and items."""

from __future__ import annotations

import shlex
from typing import Any

import pyarrow.parquet as pq

from twotower.pipelines.console import say, stage
from twotower.pipelines.errors import RunError
from twotower.pipelines.run import CONFIG, Run, writes
from twotower.pipelines.steps.processed import ITEMS
from twotower.serving.item_columns import check_columns

CONVERTED = ".twotower-converted"
"""The folder below a run for what a large source has read before it was interrupted."""


@writes
def ingest(run: Run, remember: bool = True) -> dict[str, Any]:
    """Write data/interactions.parquet, users.parquet and items.parquet from the source.

    Parameters
    ----------
    run : Run
        The run to write.
    remember : bool
        Whether commands without --run use this run from now on.

    Returns
    -------
    dict
        The notes in the manifest: counts, a summary and remarks.

    Raises
    ------
    RunError
        If updates have added data to the run that the source lacks.
    DataError
        If the source is wrong, or does not fit the settings.
    """
    from twotower.workflows.features.checks import check_data
    from twotower.workflows.ingest import ingest as read

    _refuse_to_drop_updates(run)
    config = run.config
    remarks: list[str] = []
    with stage("ingest") as (progress, result), run.step("ingest") as (out, notes):
        summary = read(
            config.ingest,
            out / "data",
            progress,
            remarks.append,
            config.wanted,
            work=run.path / CONVERTED,
        )
        for remark in remarks:
            say(remark)
        check_data(out / "data", config.positives, config.features)
        schema = pq.read_schema(out / "data" / ITEMS)
        check_columns(schema, config.serving.filters)
        check_columns(schema, config.ranking.profile, "ranking.profile")
        notes |= {**summary.dict(), "summary": str(summary), "remarks": remarks}
        result(str(summary))
    if remember:
        run.remember()
    return notes


def _refuse_to_drop_updates(run: Run) -> None:
    """Raise RunError if reading the source again would remove what updates have added."""
    ingested = run.manifest["steps"].get("ingest", {})
    updates = ingested.get("notes", {}).get("updates", [])
    if updates:
        rows = sum(update["interactions"] for update in updates)
        config = shlex.quote(str(run.path / CONFIG))
        raise RunError(
            f"{run.path}: {len(updates)} updates added {rows:,} interactions that are not in the "
            "source; reading the source again would lose them. `twotower preprocess` and "
            "`twotower train` rebuild vocabularies and model from all data. To start without the "
            f"updates: twotower ingest --config {config} --run <new folder>"
        )
