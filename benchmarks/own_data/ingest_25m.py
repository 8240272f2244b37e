"""Part `movielens_25m`: time and memory of ingesting 25 million ratings, in a process of its own.

python -m benchmarks.own_data.ingest_25m <folder with the data> <run folder>    ingests once
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks.child import child
from benchmarks.own_data.movielens_layout import Size, write_layout
from benchmarks.report import Check, Rows

MAX_SECONDS, MAX_GIB, CORES = 90, 4, 2
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


def movielens_25m(data: Path | None = None, size: Size | None = None) -> tuple[Rows, list[Check]]:
    """Generate ratings in the layout of MovieLens-25M, and ingest them on two cores.

    Parameters
    ----------
    data : Path, optional
        Not used; the data is generated.
    size : Size, optional
        By default that of MovieLens-25M.

    Returns
    -------
    rows : dict
        Seconds of the whole process, imports included, and its peak resident memory.
    checks : list of Check
    """
    size = size or Size()
    with tempfile.TemporaryDirectory(prefix="ml-25m-") as folder:
        source = Path(folder) / "ml-25m"
        write_layout(source, size)
        seconds, peak = measure(source, Path(folder) / "run")
        mebibytes = (source / "ratings.csv").stat().st_size / 2**20
    row = {
        "interactions": size.ratings,
        "users": size.users,
        "items": size.films,
        "ratings_mib": round(mebibytes, 1),
        "seconds": round(seconds, 1),
        "peak_gib": round(peak, 2),
    }
    return {"movielens_25m": row}, [
        Check("MovieLens-25M layout: seconds of ingest on 2 cores", seconds, "<=", MAX_SECONDS),
        Check("MovieLens-25M layout: peak resident GiB of ingest", peak, "<=", MAX_GIB),
    ]


def measure(source: Path, run: Path) -> tuple[float, float]:
    """Ingest `source` in a process of its own: its seconds, and its peak resident GiB."""
    command = [sys.executable, "-m", "benchmarks.own_data.ingest_25m", str(source), str(run)]
    peak, started = 0, time.perf_counter()
    with child(command) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            # The high-water mark never falls, so the last reading is the peak.
            found = _PEAK.search(status.read_text())
            peak = int(found[1]) if found else peak
            time.sleep(0.02)
        seconds = time.perf_counter() - started
        output, errors = process.communicate()
    if process.returncode:
        raise click.ClickException(f"the ingest failed: {output}{errors}")
    return seconds, peak / 2**20


def ingest_once(source: Path, run: Path) -> None:
    """Ingest as `twotower ingest --data <source>` does, on two cores."""
    from twotower.pipelines.job import choose
    from twotower.pipelines.run import Run
    from twotower.pipelines.steps.ingest import ingest

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    config, _ = choose(None, source)
    ingest(Run.create(config, run), remember=False)


if __name__ == "__main__":
    ingest_once(Path(sys.argv[1]), Path(sys.argv[2]))
