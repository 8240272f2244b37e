"""Part `formats`: the same interactions in each format that can be read, and the time it takes."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks.report import Check, Rows


def formats(data: Path | None = None, n: int = 1_000_000) -> tuple[Rows, list[Check]]:
    """Write interactions with text ids in each format, and ingest them.

    Parameters
    ----------
    data : Path, optional
        Not used; the data is generated.
    n : int
        The number of interactions.

    Returns
    -------
    rows : dict
        Seconds of reading, checking and writing the tidy tables, and MiB of the file.
    checks : list of Check
        Whether all formats give equal tables.
    """
    from twotower.workflows.ingest import IngestConfig, ingest
    from twotower.workflows.sources.files.config import FilesConfig
    from twotower.workflows.tables import Tables

    rows: Rows = {}
    tables = []
    with tempfile.TemporaryDirectory(prefix="formats-") as folder:
        for path in _write(Path(folder), n):
            config = IngestConfig(
                source="files",
                path=Path(folder),
                files=FilesConfig(interactions=path.name, keep=["timestamp", "price"]),
            )
            out = Path(folder) / f"out-{path.name}"
            started = time.perf_counter()
            ingest(config, out)
            rows[path.name] = {
                "seconds": round(time.perf_counter() - started, 2),
                "mib": round(path.stat().st_size / 2**20, 1),
                "interactions": n,
            }
            tables.append(Tables.read(out))
        equal = sum(each == tables[0] for each in tables)
    return rows, [Check("formats that give the same tables", equal, ">=", len(tables))]


def _write(folder: Path, n: int) -> list[Path]:
    """Write distinct pairs with a time and a price as parquet, CSV, gzipped CSV and JSON lines."""
    draw = np.random.default_rng(0)
    pairs = draw.choice(20 * n, n, replace=False)
    users, items = np.divmod(pairs, 2000)
    table = pa.table(
        {
            "user_id": pa.array([f"C{user:06}" for user in users]),
            "item_id": pa.array([f"SKU-{item:04}" for item in items]),
            "timestamp": draw.integers(1_600_000_000, 1_700_000_000, n),
            "price": draw.integers(1, 10_000, n) / 4,
        }
    )
    paths = [folder / f"log.{ending}" for ending in ("parquet", "csv", "csv.gz", "jsonl")]
    pq.write_table(table, paths[0])
    pyarrow.csv.write_csv(table, paths[1])
    with pa.CompressedOutputStream(str(paths[2]), "gzip") as stream:
        pyarrow.csv.write_csv(table, stream)
    table.to_pandas().to_json(paths[3], orient="records", lines=True)
    return paths
