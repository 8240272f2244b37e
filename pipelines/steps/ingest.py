"""Read and check the source, write the tidy tables."""

from __future__ import annotations

import shlex

from twotower.pipelines.console import say, stage
from twotower.pipelines.errors import RunError
from twotower.pipelines.run import CONFIG, Run, writes


@writes
def ingest(run: Run, remember: bool = True) -> dict:
    """Source -> data/interactions.parquet, users.parquet, items.parquet.

    With `remember` it is from now on the run that commands without --run work on. Raises RunError
    when the run has data that updates brought, which the source lacks.
    """
    from twotower.workflows.features.checks import check_data
    from twotower.workflows.ingest import ingest as read

    _refuse_to_drop_updates(run)
    config, remarks = run.config, []
    with stage("ingest") as (report, result), run.step("ingest") as (out, notes):
        summary = read(config.ingest, out / "data", report, remarks.append)
        for remark in remarks:
            say(remark)
        check_data(out / "data", config.positives, config.features)
        notes |= {**summary.dict(), "summary": str(summary), "remarks": remarks}
        result(str(summary))
    if remember:
        run.remember()
    return notes


def _refuse_to_drop_updates(run: Run) -> None:
    """Raise RunError if reading the source again would lose what updates have brought."""
    ingested = run.manifest["steps"].get("ingest", {})
    updates = ingested.get("notes", {}).get("updates", [])
    if updates:
        rows = sum(update["interactions"] for update in updates)
        config = shlex.quote(str(run.path / CONFIG))
        raise RunError(
            f"{run.path}: {len(updates)} updates brought {rows:,} interactions that the source "
            "lacks; reading it again would lose them. `twotower preprocess` and `twotower train` "
            "make vocabularies and model anew from all data. To start over without the updates: "
            f"twotower ingest --config {config} --run <new folder>"
        )
