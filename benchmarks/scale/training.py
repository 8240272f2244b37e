"""Training on tables as large as Ali-CCP's: the time of a step, and the memory of an epoch."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twotower.pipelines.child import run_in_subprocess

if TYPE_CHECKING:
    from merlin.schema import Schema

    from twotower.models.training.data import TrainingData

DIM, BATCH_SIZE, VALIDATED = 64, 4096, 2048
FIRST_CODE = 3
"""Codes begin after those for padding, null and out-of-vocabulary."""
STEPS, ROUNDS = 25, 16
USER_FEATURES = {"profile": 1 / 2000, "group": 13, "gender": 3, "age": 8, "place": 5}
ITEM_FEATURES = {"category": 1 / 60, "shop": 1 / 4, "brand": 1 / 8}
"""Size of each feature's vocabulary; below 1 a fraction of the number of users or items."""


def measure_step_time(
    items: int = 568_847, users: int = 215_000, small: int = 10, same_batches: bool = True
) -> dict:
    """Compare the time of a training step with that of a vocabulary a tenth the size.

    Both trainings are in one process and take turns, one epoch each, so that what disturbs the
    machine disturbs both.

    Parameters
    ----------
    items, users : int
        Sizes of the large vocabulary.
    small : int
        By how much the other one is smaller.
    same_batches : bool
        Draw the interactions of the large vocabulary from as many users and items as the small one
        has, spread over its tables: batches then have equally many distinct rows. Otherwise from
        all of them: batches then have more distinct rows, which all take part in the softmax.

    Returns
    -------
    dict
        "seconds" and "seconds, small": the median time of a step; "ratio": the median ratio of two
        epochs that follow each other.
    """
    work = partial(_step_time, items=items, users=users, small=small, same_batches=same_batches)
    return _in_child(work)


def measure_epoch(rows: int = 1_600_000, items: int = 568_847, users: int = 215_000) -> dict:
    """Train two epochs in a process of its own, with a validation on some users after each.

    Parameters
    ----------
    rows : int
        Interactions per epoch.
    items, users : int

    Returns
    -------
    dict
        Of the second epoch "rows per second" and "validation, seconds" (`VALIDATED` users);
        "resident peak, GB" of the whole process, and "before training, GB"; "state, GB": the
        size of a checkpoint.
    """
    return _in_child(partial(_epoch, rows=rows, items=items, users=users))


def synthetic(users: int, items: int, rows: int, spread: int = 1) -> tuple[Schema, TrainingData]:
    """Draw skewed interactions of users and items with ids and a few features.

    Parameters
    ----------
    users, items : int
        Numbers of users and items that have interactions.
    rows : int
        Number of interactions.
    spread : int
        The tables and the vocabularies of the features are so many times as large; the rows that
        have interactions, and their features, are spread over them.

    Returns
    -------
    schema : Schema
    data : TrainingData
    """
    from merlin.schema import Schema, Tags

    from twotower.models.training.data import TrainingData

    random = np.random.default_rng(7)
    columns, tables, drawn = [], [], []
    for side, size, features, tag, id_tag in (
        ("user", users, USER_FEATURES, Tags.USER, Tags.USER_ID),
        ("item", items, ITEM_FEATURES, Tags.ITEM, Tags.ITEM_ID),
    ):
        total = size * spread
        used = random.permutation(total)[:size].astype(np.int32)
        table = {f"{side}_id": np.arange(total, dtype=np.int32)[:, None] + FIRST_CODE}
        columns.append(_column(f"{side}_id", total, tag, id_tag))
        for name, share in features.items():
            count, times = (int(share), 1) if share >= 1 else (max(2, int(share * size)), spread)
            values = random.integers(0, count * times, total)
            codes = random.permutation(count * times)[:count]
            values[used] = codes[random.integers(0, count, size)]
            table[name] = values.astype(np.int32)[:, None] + FIRST_CODE
            columns.append(_column(name, count * times, tag))
        tables.append(table)
        weights = np.arange(1, size + 1) ** -0.5
        drawn.append(used[random.choice(size, rows, p=weights / weights.sum())])
    return Schema(columns), TrainingData(
        users=tables[0], items=tables[1], user_rows=drawn[0], item_rows=drawn[1]
    )


def _column(name: str, values: int, *tags: Any) -> Any:
    from merlin.schema import ColumnSchema, Tags

    return ColumnSchema(
        name,
        dtype=np.int32,
        tags=[Tags.CATEGORICAL, *tags],
        properties={"domain": {"min": 0, "max": values + FIRST_CODE - 1, "name": name}},
    )


def _in_child(work: Callable[..., dict]) -> dict:
    """Run `work` in a process of its own: its peak of memory is not that of another one."""
    with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
        return run_in_subprocess(work, Path(folder) / "child.log")


def _fit(
    made: tuple[Schema, TrainingData],
    epochs: int,
    validate: Callable[[Any], dict[str, float]],
    folder: Path,
    steps_only: bool = False,
) -> dict[str, list]:
    """Fit towers with the default settings, and return the history; `steps_only`: no checkpoints.

    Checkpoints between epochs do not count as time of the epochs.
    """
    from twotower.models.config import TwoTowerConfig
    from twotower.models.training.config import TrainingConfig
    from twotower.models.training.fit import fit
    from twotower.models.training.model import create

    schema, data = made
    training = TrainingConfig(batch_size=BATCH_SIZE, epochs=epochs, patience=epochs)
    if steps_only:
        training = training.copy(update={"checkpoint_seconds": 1e9})
    tower = create(schema, data, TwoTowerConfig(dim=DIM), training.seed)
    return fit(tower, data, training, validate, folder)


def _step_time(
    send: Callable[[Any], None], items: int, users: int, small: int, same_batches: bool
) -> dict:
    turns = [threading.Semaphore(0), threading.Semaphore(0)]
    histories: list[dict[str, list]] = [{}, {}]
    sizes = {"users": users // small, "items": items // small, "rows": STEPS * BATCH_SIZE}
    large = (
        {**sizes, "spread": small} if same_batches else {**sizes, "users": users, "items": items}
    )

    def train(own: int) -> None:
        def give_turn(model: Any) -> dict[str, float]:
            turns[1 - own].release()
            turns[own].acquire()
            return {"ndcg@10": 0.0}

        turns[own].acquire()
        try:
            with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
                made = synthetic(**(sizes if own else large))
                histories[own] = _fit(made, ROUNDS + 1, give_turn, Path(folder), True)
        finally:
            turns[1 - own].release()

    threads = [threading.Thread(target=train, args=[own]) for own in range(2)]
    for thread in threads:
        thread.start()
    turns[0].release()
    for thread in threads:
        thread.join()
    # The first epoch includes the tracing of the graph.
    seconds = [np.array(each["seconds"][1:]) / STEPS for each in histories]
    return {
        "items": items,
        "users": users,
        "batch_size": BATCH_SIZE,
        "steps": STEPS * ROUNDS,
        "same batches": same_batches,
        "seconds": round(float(np.median(seconds[0])), 5),
        "seconds, small": round(float(np.median(seconds[1])), 5),
        "ratio": round(float(np.median(seconds[0] / seconds[1])), 3),
    }


def _epoch(send: Callable[[Any], None], rows: int, items: int, users: int) -> dict:
    from scipy.sparse import csr_matrix

    from benchmarks.scale.memory import peak_gb
    from twotower.models.evaluation.metrics import evaluate
    from twotower.models.two_tower import TowerScorer

    made = synthetic(users=users, items=items, rows=rows)
    data, before = made[1], peak_gb()
    some = {name: column[:VALIDATED] for name, column in data.users.items()}
    each = np.arange(VALIDATED)
    relevant = csr_matrix((np.ones(VALIDATED, bool), (each, each)), shape=(VALIDATED, items))

    def validate(model: Any) -> dict[str, float]:
        scorer = TowerScorer.of(model, some, data.items)
        return evaluate(scorer, relevant, csr_matrix(relevant.shape, dtype=bool), [10]).values

    with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
        history = _fit(made, 2, validate, Path(folder))
        written = [file.stat() for file in (Path(folder) / "state").iterdir()]
    return {
        "items": items,
        "users": users,
        "rows": rows,
        "rows per second": round(rows / history["seconds"][1]),
        "validation, seconds": round(history["validation_seconds"][1], 2),
        "before training, GB": round(before, 2),
        "resident peak, GB": round(peak_gb(), 2),
        "state, GB": round(sum(file.st_size for file in written) / 1e9, 2),
    }
