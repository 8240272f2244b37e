"""Read and check the source, write the tidy tables."""

from __future__ import annotations

from pipelines.console import say, stage
from pipelines.run import Run, writes


@writes
def ingest(run: Run, remember: bool = True) -> dict:
    """Source -> data/interactions.parquet, users.parquet, items.parquet.

    With `remember` it is from now on the run that commands without --run work on.
    """
    from workflows.features import check_data
    from workflows.ingest import ingest as read

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
