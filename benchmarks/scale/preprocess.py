"""How fast tables are encoded, against NVTabular's own transform, and what workers save."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

SINGLE, LISTS, NUMBERS = 10, 4, 4
LIST_LENGTH = 20
TURNS = 3


def made_up_users(rows: int, values: int = 100_000, seed: int = 1) -> pa.Table:
    """Return users with 10 categories, 4 lists and 4 numbers, 18 columns with the id among them."""
    rng = np.random.default_rng(seed)
    columns = {"user_id": pa.array(np.arange(rows))}
    for place in range(SINGLE - 1):
        drawn = rng.zipf(1.3, rows) % values
        texts = place % 3 == 0
        column = pa.array(drawn)
        columns[f"single{place}"] = column.cast(pa.string()) if texts else column
    for place in range(LISTS):
        lengths = rng.integers(0, LIST_LENGTH + 1, rows)
        offsets = np.append(0, np.cumsum(lengths)).astype(np.int32)
        drawn = rng.zipf(1.3, int(offsets[-1])) % values
        columns[f"list{place}"] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(drawn))
    for place in range(NUMBERS):
        columns[f"number{place}"] = pa.array(rng.normal(size=rows))
    return pa.table(columns)


def features() -> Any:
    """The settings of the features of `made_up_users`."""
    from twotower.workflows.features.config import FeaturesConfig

    return FeaturesConfig(
        user=[f"single{place}" for place in range(SINGLE - 1)],
        user_multi_hot={f"list{place}": LIST_LENGTH for place in range(LISTS)},
        user_numeric=[f"number{place}" for place in range(NUMBERS)],
    )


def measure_encode(rows: int = 200_000, reference_rows: int = 20_000) -> dict[str, Any]:
    """Measure how many rows per second are encoded, 18 columns each.

    Parameters
    ----------
    rows : int
        Number of users; each has one pair in the training part.
    reference_rows : int
        Number of them that NVTabular's own transform encodes, which is slower.

    Returns
    -------
    dict
        Rows per second of both, on the same first `reference_rows` as well, and whether the codes
        are equal.
    """
    import nvtabular as nvt

    from twotower.workflows.encoding.encoder import Encoder
    from twotower.workflows.encoding.table import in_parts
    from twotower.workflows.features.graph import fit_features
    from twotower.workflows.features.rows import typed

    users, names = made_up_users(rows), features()
    train = pd.DataFrame({"user_id": np.arange(rows), "item_id": np.arange(rows) % 1000})
    items = pa.table({"item_id": np.arange(1000)})
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        workflow = fit_features(train, users, items, names, Path(folder))
        fit_seconds = time.perf_counter() - start
        encoder = Encoder.of(workflow, "user")
        encoder.encode(users.slice(0, 10))  # reads the vocabularies
        start = time.perf_counter()
        encoded = [encoder.encode(part) for part in in_parts(users, Path(folder), map)]
        ours = rows / (time.perf_counter() - start)
        first = typed(users.slice(0, reference_rows).to_pandas(), list(names.user_multi_hot), [])
        graph = workflow.get_subworkflow("user")
        graph.transform(nvt.Dataset(first[:10])).compute()
        start = time.perf_counter()
        reference = graph.transform(nvt.Dataset(first)).compute()
        theirs = reference_rows / (time.perf_counter() - start)
    same = pa.concat_tables(encoded).slice(0, reference_rows).to_pandas()
    equal = all(
        [list(row) for row in same[name]] == [list(row) for row in reference[name]]
        if name in names.user_multi_hot
        else np.array_equal(same[name], reference[name])
        for name in same
    )
    return {
        "rows": rows,
        "columns": len(encoder.columns),
        "fit, s": fit_seconds,
        "rows/s": ours,
        "rows/s of NVTabular's transform": theirs,
        "equal": equal,
    }


def measure_workers(
    interactions: int = 20_000_000, users: int = 1_000_000, folder: Path | None = None
) -> dict[str, Any]:
    """Measure the work that is distributed, in one process and with two workers.

    Parameters
    ----------
    interactions : int
        Number of made-up interactions, of which 4 % are positives.
    users : int
        Number of users, with 18 columns.
    folder : Path, optional
        Where to put the files; a temporary folder by default.

    Returns
    -------
    dict
        Seconds to select positives, count vocabularies and encode users, in both ways, which take
        turns: medians of `TURNS`; their ratio; and whether the results are equal. The start of the
        workers is not in it.
    """
    from twotower.workflows.cluster.cluster import opened_cluster
    from twotower.workflows.cluster.config import DaskConfig

    with tempfile.TemporaryDirectory(dir=folder) as made:
        place, table = Path(made), made_up_users(users)
        _write_interactions(place / "large.parquet", interactions, users)
        _write_interactions(place / "small.parquet", 10_000, users)
        found: dict[str, Any] = {"interactions": interactions, "users": users}
        spent: dict[str, list[dict[str, float]]] = {"one process": [], "2 workers": []}
        results = {}
        with opened_cluster(DaskConfig(workers=2), place, print) as workers:
            for turn in range(-1, TURNS):
                for name, run in zip(spent, (map, workers), strict=True):
                    if turn < 0:  # imports and caches
                        _work(place / "small.parquet", table, run)
                        continue
                    seconds, results[name] = _work(place / "large.parquet", table, run)
                    spent[name].append(seconds | {"all": sum(seconds.values())})
    for name, turns in spent.items():
        for part in turns[0]:
            median = float(np.median([turn[part] for turn in turns]))
            found[f"{name}: {part}, s"] = round(median, 3)
    found["equal"] = results["one process"] == results["2 workers"]
    found["ratio"] = round(found["one process: all, s"] / found["2 workers: all, s"], 3)
    return found


def _write_interactions(path: Path, rows: int, users: int) -> None:
    rng, size = np.random.default_rng(2), 1 << 20
    with pq.ParquetWriter(path, _interactions(rng, 1, users).schema) as writer:
        for start in range(0, rows, size):
            writer.write_table(_interactions(rng, min(size, rows - start), users))


def _interactions(rng: np.random.Generator, rows: int, users: int) -> pa.Table:
    return pa.table(
        {
            "user_id": rng.integers(0, users, rows),
            "item_id": rng.integers(0, 500_000, rows),
            "timestamp": rng.integers(0, 10**9, rows),
            "click": (rng.random(rows) < 0.04).astype(np.int64),
        }
    )


def _work(
    interactions: Path, users: pa.Table, run: Any
) -> tuple[dict[str, float], tuple[pa.Table, pa.Table, dict[str, int]]]:
    """Do what is distributed; return the seconds of each part, and the results."""
    from twotower.workflows.encoding.encoder import Encoder, encode_parts
    from twotower.workflows.encoding.fit import count_side
    from twotower.workflows.encoding.table import side_rows
    from twotower.workflows.features.config import PositivesConfig
    from twotower.workflows.features.encode import load_workflow
    from twotower.workflows.features.graph import fit_features
    from twotower.workflows.interactions.positives import read_positives

    names, out, seconds = features(), interactions.parent / "work", {}
    start = time.perf_counter()
    columns = ["user_id", "item_id", "timestamp"]
    config = PositivesConfig(column="click")
    pairs = read_positives(interactions, config, columns, run=run).rows
    seconds["positives"] = time.perf_counter() - start
    side, start = names.sides[0], time.perf_counter()
    rows = side_rows(users, side, out / "shared", run)
    counted = count_side(rows, side, pairs["user_id"], run)
    seconds["count"] = time.perf_counter() - start
    # The graph is fitted once, on few pairs, because fitting it is not distributed.
    if not (out / "fitted").exists():
        items = pa.table({"item_id": np.arange(500_000)})
        fit_features(pairs, users, items, names, out / "fitted")
    encoder = Encoder.of(load_workflow(out / "fitted"), "user")
    start = time.perf_counter()
    encoded = pa.concat_tables(encode_parts(encoder, rows.parts, run))
    seconds["encode"] = time.perf_counter() - start
    shutil.rmtree(out / "shared", ignore_errors=True)  # as it is not there in a new run
    sizes = {column: int(counts.sizes.sum()) for column, counts in counted.counts.items()}
    return seconds, (pa.Table.from_pandas(pairs), encoded, sizes)
