"""Read and check the source, write the tidy tables."""

from __future__ import annotations

from pipelines.console import stage
from pipelines.run import Run, writes


@writes
def ingest(run: Run, remember: bool = True) -> dict:
    """Source -> data/interactions.parquet, users.parquet, items.parquet.

    With `remember` it is from now on the run that commands without --run work on.
    """
    from workflows.ingest import ingest as read

    with stage("ingest") as (report, result), run.step("ingest") as (out, notes):
        summary = read(run.config.ingest, out / "data", report)
        notes |= {**summary.dict(), "summary": str(summary)}
        result(str(summary))
    if remember:
        run.remember()
    return notes
