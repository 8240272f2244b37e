"""The metrics of each user: one of them kept for the verdict, all of them in a file on request."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.models.evaluation.metrics import USER_METRICS, OnUsers
from twotower.pipelines.errors import ConfigError
from twotower.serving.files import sync
from twotower.workflows.ids import Ids

ROWS = 1 << 16
"""Rows per row group of the file."""
Write = Callable[[str, np.ndarray, np.ndarray], None]


class OneMetric:
    """Keeps one metric of each user, model by model.

    Parameters
    ----------
    monitor : str
        The metric that chose the epoch. Coverage is none of a user: NDCG is kept instead.
    ks : sequence of int
        The cutoffs that are measured.

    Attributes
    ----------
    name : str
        The metric that is kept.
    values : dict of str to list of ndarray of float64
        The values of each model, batch by batch.
    """

    def __init__(self, monitor: str, ks: Sequence[int]):
        metric, _, cutoff = monitor.partition("@")
        metric = metric if metric in USER_METRICS else "ndcg"
        self.name = f"{metric}@{cutoff}"
        self._place = USER_METRICS.index(metric), list(ks).index(int(cutoff))
        self._batches: dict[str, list[np.ndarray]] = {}

    def add(self, model: str, values: np.ndarray) -> None:
        """Keep the metric of a batch of users, see `OnUsers`."""
        row, column = self._place
        self._batches.setdefault(model, []).append(values[:, row, column].copy())

    @property
    def values(self) -> dict[str, np.ndarray]:
        """The metric (float64, shape (n,)) of all users by model."""
        return {model: np.concatenate(batches) for model, batches in self._batches.items()}


@contextlib.contextmanager
def user_file(
    path: Path, ks: Sequence[int], codes: np.ndarray, ids: Ids, relevant: np.ndarray
) -> Iterator[Write]:
    """Write a parquet file with one row per model and user; it appears when all are written.

    Parameters
    ----------
    path : Path
        The file.
    ks : sequence of int
        The cutoffs that are measured.
    codes : ndarray of int64, shape (n_users,)
        The code of each user's id.
    ids : Ids
        The ids of the codes.
    relevant : ndarray of int, shape (n_users,)
        Number of relevant items of each user.

    Yields
    ------
    callable (model, users, values)
        Writes the metrics of a batch of users, see `OnUsers`.
    """
    partial = path.with_name(f".{path.name}.part")
    names = [f"{metric}@{k}" for k in ks for metric in USER_METRICS]
    schema = pa.schema(
        [
            ("user_id", ids.type),
            ("model", pa.string()),
            ("relevant", pa.int64()),
            *((name, pa.float64()) for name in names),
        ]
    )
    waiting: list[pa.RecordBatch] = []
    try:
        with pq.ParquetWriter(partial, schema) as writer:

            def flush() -> None:
                if waiting:
                    writer.write_table(pa.Table.from_batches(waiting, schema))
                waiting.clear()

            def write(model: str, users: np.ndarray, values: np.ndarray) -> None:
                columns = values.transpose(2, 1, 0).reshape(len(names), len(users))
                arrays = [
                    pa.array(ids.decode(codes[users]), ids.type),
                    pa.array([model] * len(users), pa.string()),
                    pa.array(relevant[users], pa.int64()),
                    *map(pa.array, columns),
                ]
                waiting.append(pa.record_batch(arrays, schema=schema))
                if sum(batch.num_rows for batch in waiting) >= ROWS:
                    flush()

            yield write
            flush()
        sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def check_user_file(path: Path) -> None:
    """Raise ConfigError if the metrics of the users cannot be written to `path`."""
    if path.suffix != ".parquet":
        raise ConfigError(f"--per-user {path}: a parquet file is written; name it *.parquet")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigError(f"--per-user {path}: no file can be written there; is it in a folder?")


def both(one: OneMetric, write: Write | None, model: str) -> OnUsers:
    """Return the function that receives the metrics of a model's users.

    Parameters
    ----------
    one : OneMetric
    write : callable or None
        What `user_file` yields, if there is to be a file.
    model : str

    Returns
    -------
    callable (users, values)
    """

    def on_users(users: np.ndarray, values: np.ndarray) -> None:
        one.add(model, values)
        if write is not None:
            write(model, users, values)

    return on_users
