"""Part `convert`: raw Ali-CCP files to parquet, and whether the last rows take longer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import LOGS
from benchmarks.scale.memory import peak_gb
from twotower.pipelines.child import run_in_subprocess
from twotower.workflows.sources.ali_ccp.config import AliCCPConfig
from twotower.workflows.sources.ali_ccp.generate import generate
from twotower.workflows.sources.ali_ccp.source import AliCCPRaw
from twotower.workflows.sources.wanted import Wanted

WANTED = Wanted(users=("user_age", "user_categories", "user_shops"), items=("item_category",))
TENTH = 0.1


def measure_convert(rows: int, folder: Path) -> dict[str, Any]:
    """Convert a made-up set of `rows` impressions in `folder`, in a process of its own.

    Returns
    -------
    dict of str to Any
        Rows per second, the peak of resident memory in GB, and the rate of the last tenth of the
        impressions over that of the first, which is of bytes per second.
    """
    data = folder / "convert"
    generate(data, rows, rows // 10)
    return run_in_subprocess(partial(_convert, data=data, rows=rows), LOGS / "scale-convert.log")


def _convert(send: Callable[[Any], None], data: Path, rows: int) -> dict[str, Any]:
    _compile(data.parent)
    source = AliCCPRaw(data, AliCCPConfig(), WANTED)
    source.work = data.parent / "converted"
    times: list[tuple[int, float]] = []
    started = time.perf_counter()

    def progress(done: int, total: int) -> None:
        times.append((done, time.perf_counter() - started))

    tables = source.read(progress)
    seconds, count = time.perf_counter() - started, len(tables.interactions)
    done, at = (np.array(column) for column in zip(*times, strict=True))
    common, train = (
        sum((data / f"{name}_{part}.csv").stat().st_size for part in parts)
        for name, parts in (
            ("common_features", ("train", "test")),
            ("sample_skeleton", ("train",)),
        )
    )
    first = 2 * common  # the common features are read, and then written as one file
    marks = first + train * np.array([0, TENTH, 1 - TENTH, 1])
    start, early, late, end = np.interp(marks, done, at)
    return {
        "impressions": count,
        "raw files, GB": round(sum(file.stat().st_size for file in data.iterdir()) / 1e9, 2),
        "processors": len(os.sched_getaffinity(0)),
        "seconds": round(seconds, 1),
        "rows/s": round(count / seconds),
        "last tenth over first": round(float((early - start) / (end - late)), 3),
        "resident peak, GB": round(peak_gb(), 2),
    }


def _compile(folder: Path) -> None:
    """Convert a few lines, so that the parser is compiled before."""
    few = folder / "few"
    generate(few, 1000, 100, tokens=50)
    AliCCPRaw(few, AliCCPConfig(), WANTED).read()
