"""The vectors of users and items as files, for vector databases and notebooks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.pipelines.answers.output import ROWS_PER_GROUP
from twotower.pipelines.answers.published import Published, open_published
from twotower.pipelines.console import ShowProgress, stage
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.run import Run
from twotower.pipelines.run.disk import explained_disk_errors, make_folder
from twotower.pipelines.steps.query import shown_items
from twotower.serving.files import sync

BATCH = 4096
"""Users whose vectors are computed at a time."""
VECTOR = "vector"
METADATA = "metadata.json"
UNIT = 1e-4
"""Largest distance from 1 of the length of a normalised vector."""


def write_vectors(run: Run, out: Path, overwrite: bool = False) -> dict[str, Any]:
    """Write the vectors of the published version's users and items into a new folder.

    - users.parquet: user id, and vector, a list of float32 of fixed size
    - items.parquet: item id, vector, and the columns of the items that `show` names
    - users.npy, items.npy: the same vectors, float32 of shape (n, D), in the same order
    - user_ids.npy, item_ids.npy: the ids of these rows
    - metadata.json: number and towers of the version, metric, dimensions, counts

    The inner product of a user's and an item's vector is the score that the server answers.
    Withdrawn and denied items have no vector. The folder appears when it is complete.

    Parameters
    ----------
    run : Run
        Has a published version.
    out : Path
        The folder to make.
    overwrite : bool
        Whether to replace `out` if it exists.

    Returns
    -------
    dict
        The content of metadata.json.

    Raises
    ------
    ConfigError
        If `out` exists.
    RunError
        If nothing is published.
    ServingError
        If the version cannot run in this process.
    """
    if out.exists() and not overwrite:
        raise ConfigError(f"--out {out}: exists already; --overwrite replaces it")
    if out.exists() and not (out / METADATA).is_file():
        raise ConfigError(
            f"--out {out}: not a folder of vectors, so it is not replaced; name another"
        )
    make_folder(out.parent)
    unfinished, replaced = (out.with_name(f".{out.name}.{each}") for each in ("new", "old"))
    for each in (unfinished, replaced):  # of a killed command
        shutil.rmtree(each, ignore_errors=True)
    make_folder(unfinished)
    with explained_disk_errors(unfinished, "vectors"), stage("vectors") as (progress, result):
        progress(0, 1, "load the version")
        published = open_published(run)
        metadata = _write(run, published, unfinished, progress)
        for file in unfinished.iterdir():
            sync(file)
        sync(unfinished)
        if out.exists():
            out.rename(replaced)
        unfinished.rename(out)
        sync(out.parent)
        shutil.rmtree(replaced, ignore_errors=True)
        result(
            f"version {published.number}: {metadata['users']:,} users, {metadata['items']:,} "
            f"items, {metadata['dimensions']} dimensions; {out}"
        )
    return metadata


def _write(run: Run, published: Published, out: Path, progress: ShowProgress) -> dict[str, Any]:
    """Write all files into `out`; return the content of metadata.json."""
    version, contract = published.version, published.version.contract
    user_ids, kept = version.user_ids, ~version.denied
    item_ids, items = version.item_ids[kept], version.item_vectors[kept]
    metadata = {
        "version": published.number,
        "towers_sha256": version.towers_sha256,
        "metric": "inner_product",
        "normalized": True,
        "dimensions": items.shape[1],
        "users": len(user_ids),
        "items": len(item_ids),
    }
    user_vectors = _array(out / "users.npy", len(user_ids), items.shape[1])
    for first in range(0, len(user_ids), BATCH):
        ids = user_ids[first : first + BATCH]
        user_vectors[first : first + len(ids)] = version.query_vectors(ids)
        progress(first + len(ids), len(user_ids), "users")
    _array(out / "items.npy", len(item_ids), items.shape[1])[:] = items
    shown = (
        shown_items(run).reindex(item_ids).drop(columns=[contract.item_id, VECTOR], errors="ignore")
    )
    for name, key, ids, vectors, columns in (
        ("users", contract.user_id, user_ids, user_vectors, None),
        ("items", contract.item_id, item_ids, items, shown),
    ):
        progress(phase=f"{name}.parquet")
        _write_parquet(out / f"{name}.parquet", key, ids, vectors, columns)
        np.save(out / f"{key}s.npy", ids.astype(str) if ids.dtype == object else ids)
        metadata["normalized"] &= _are_normalized(vectors)
    (out / METADATA).write_text(json.dumps(metadata, indent=1) + "\n")
    return metadata


def _array(path: Path, rows: int, dimensions: int) -> np.ndarray:
    """A new .npy file of float32 as an array on the disk."""
    return np.lib.format.open_memmap(path, "w+", np.float32, (rows, dimensions))


def _write_parquet(
    path: Path, key: str, ids: np.ndarray, vectors: np.ndarray, columns: pd.DataFrame | None
) -> None:
    """Write ids, vectors and, row by row, further columns."""
    kind = pa.list_(pa.float32(), vectors.shape[1])
    fields = [(key, pa.array(ids[:1]).type), (VECTOR, kind)]
    more = None if columns is None else pa.Table.from_pandas(columns, preserve_index=False)
    schema = pa.schema([*map(pa.field, *zip(*fields, strict=True)), *(more.schema if more else ())])
    with pq.ParquetWriter(path, schema) as file:
        for first in range(0, len(ids), ROWS_PER_GROUP):
            rows = slice(first, first + ROWS_PER_GROUP)
            flat = pa.array(np.ascontiguousarray(vectors[rows]).ravel())
            arrays = [pa.array(ids[rows]), pa.FixedSizeListArray.from_arrays(flat, kind.list_size)]
            further = more.slice(first, ROWS_PER_GROUP).columns if more else []
            file.write_table(pa.table([*arrays, *further], schema=schema))


def _are_normalized(vectors: np.ndarray) -> bool:
    """Whether all vectors have length 1, so that the inner product is the cosine."""
    return all(
        (np.abs(np.linalg.norm(vectors[first : first + BATCH], axis=1) - 1) <= UNIT).all()
        for first in range(0, len(vectors), BATCH)
    )
