"""What two workers compute, and one process for comparison.

`python -m tests.models.distributed.cases FOLDER` is a worker: it writes what it has computed to
`FOLDER/worker-<rank>.pickle`.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tests.models.checkerboard import TRAINING, make_data, make_schema, own_colour, vectors
from tests.models.interruption import fit_until
from twotower.models.config import TwoTowerConfig
from twotower.models.distributed.workers import HorovodWorkers, Workers, join_workers
from twotower.models.feature_lookup import FeatureLookup
from twotower.models.training.batches import (
    count_steps,
    feature_lookup,
    shuffled_batches,
    training_columns,
)
from twotower.models.training.data import TrainingData
from twotower.models.training.fit import fit
from twotower.models.training.model import TwoTower, create

BATCH = 32
"""Of one worker."""
N_EVEN, N_UNEVEN = 576, 595
"""Positives: 9 batches of two workers; and 9 batches and 19 positives, so the last is 19 and 0."""
# Without random draws, which depend on how a batch is split.
PLAIN: dict[str, Any] = {"dim": 8, "feature_dropout": 0.0, "cold_count": 1e-9}
GRADIENTS = {
    "softmax": {},
    "hidden layers": {"hidden": [16], "learn_temperature": True, "normalize": False},
    "streaming logQ": {"logq_estimate": "streaming"},
    "corrected logQ": {"objective": {"corrected_logq": True, "label_smoothing": 0.1}},
    "propensity": {"objective": {"propensity_power": 0.5}},
}
"""The settings of the models whose gradients are compared."""
SEED = 3
FITS: dict[str, dict[str, Any]] = {
    "even": {},
    "gathered": {"training": {"gather_negatives": True}},
    "uneven": {"n": N_UNEVEN},
    "still": {"n": N_UNEVEN, "training": {"learning_rate": 1e-12}},
    "random": {
        "n": N_UNEVEN,
        "model": {"feature_dropout": 0.1, "cold_count": 2.0, "hidden": [16], "dropout": 0.2},
        "training": {"optimizer": "adam", "average": 0.5},
    },
    "streaming": {"model": {"logq_estimate": "streaming"}, "training": {"gather_negatives": True}},
    "pairwise": {"model": {"objective": {"loss": "bpr", "negatives": "uniform", "drawn": 64}}},
    "mined": {"model": {"objective": {"loss": "bpr", "negatives": "mined"}}},
    "squared": {
        "n": N_UNEVEN,
        "model": {"objective": {"loss": "squared", "negatives": "all"}},
        "training": {"order": "by_user"},
    },
}
"""The trainings: number of positives, settings of the model and of the training."""


def data_of(n: int) -> TrainingData:
    """The first `n` positives of the checkerboard."""
    return make_data().take(np.arange(n))


def tower_of(model: dict[str, Any], data: TrainingData) -> TwoTower:
    return create(make_schema(), data, TwoTowerConfig(**{**PLAIN, **model}), seed=1)


def batches_of(data: TrainingData, rank: int, size: int, batch_size: int) -> tf.data.Dataset:
    columns = training_columns(data)
    return shuffled_batches(columns, batch_size, seed=SEED, worker=rank, workers=size)


def loss_of(tower: TwoTower, lookup: FeatureLookup, batch: dict[str, tf.Tensor]) -> tf.Tensor:
    """The loss of a batch, as Merlin's training step computes it."""
    features = lookup(batch, training=True)
    out = tower.model.call_train_test(features, None, training=True)
    return tower.model.compute_loss(features, out.targets, out.predictions, None)


def gradients(
    model: dict[str, Any],
    workers: Workers,
    batch_size: int,
    gather: bool,
    part: tuple[int, int] | None = None,
) -> list[np.ndarray]:
    """The loss of the first batch, and its gradients.

    `part` are the number of this part of the batch and how many there are; default: the workers'.
    """
    data = data_of(N_EVEN)
    tower = tower_of(model, data)
    optimizer = workers.optimizer(tf.keras.optimizers.Adagrad(0.1))
    tower.model.compile(optimizer=optimizer, metrics=[])
    for output in tower.model.model_outputs:
        output.workers, output.gather_negatives = workers, gather
    lookup = feature_lookup(tower, data, data, TRAINING, worker=workers.rank)
    rank, size = part or (workers.rank, workers.size)
    batch = next(iter(batches_of(data, rank, size, batch_size)))

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            loss = loss_of(tower, lookup, batch)
        found = optimizer.compute_gradients(loss, tower.model.trainable_variables, tape)
        return [loss, *(tf.convert_to_tensor(gradient) for gradient, _ in found)]

    return [each.numpy() for each in step()]


def mean_loss(model: dict[str, Any], n: int) -> float:
    """The mean loss of the first epoch's positives, if the initial weights are kept."""
    data = data_of(n)
    tower = tower_of(model, data)
    tower.model.compile(optimizer="adam", metrics=[])
    lookup = feature_lookup(tower, data, data, TRAINING)
    steps = count_steps(n, BATCH, 2)
    losses = [
        float(loss_of(tower, lookup, batch))
        for rank in (0, 1)
        for batch in batches_of(data, rank, 2, BATCH).take(steps)
    ]
    return sum(losses) * BATCH / n


class StockGather(HorovodWorkers):
    """Workers that gather vectors by Horovod's own function."""

    def gather_vectors(self, vectors, name):
        import horovod.tensorflow as hvd

        return hvd.allgather(vectors, name=f"stock.{name}")


def weights_of(tower: TwoTower) -> list[np.ndarray]:
    return [weight.numpy() for weight in tower.model.weights]


def fitted(case: dict[str, Any], folder: Path, batch_size: int) -> dict[str, Any]:
    """Fit, and return the weights, the history and how often this worker has validated."""
    data = data_of(case.get("n", N_EVEN))
    tower = tower_of(case.get("model", {}), data)
    changes = {"epochs": 3, "batch_size": batch_size, "optimizer": "adagrad", "seed": SEED}
    config = TRAINING.copy(update={**changes, **case.get("training", {})})
    measure, calls = own_colour(data), []

    def validate(model):
        calls.append(1)
        return measure(model)

    history = fit(tower, data, config, validate, folder, tensorboard=folder / "logs")
    metric = measure(tower.model)["ndcg@10"]
    return {
        "weights": weights_of(tower),
        "vectors": vectors(tower.model, data),
        "history": history,
        "validations": len(calls),
        "metric": metric,
        "has files": folder.exists() and any(folder.iterdir()),
    }


def resumed(folder: Path) -> list[np.ndarray]:
    """The weights of a training of "random" that was interrupted in its second epoch."""
    case = FITS["random"]
    data = data_of(case["n"])
    changes = {"epochs": 3, "batch_size": BATCH, "seed": SEED, "checkpoint_seconds": 1e-9}
    config = TRAINING.copy(update={**changes, **case["training"]})
    fit_until(14, tower_of(case["model"], data), data, config, own_colour(data), folder)
    tower = tower_of(case["model"], data)
    fit(tower, data, config, own_colour(data), folder)
    return weights_of(tower)


def initialized(folder: Path) -> dict[str, Any]:
    """The weights after an epoch that `initialize` makes, which is the only one."""
    data = data_of(N_EVEN)
    tower, calls = tower_of({}, data), []

    def initialize():
        calls.append(1)
        for weight in tower.model.trainable_variables:
            weight.assign(tf.ones_like(weight) * (2.0 + join_workers().rank))

    config = TRAINING.copy(update={"epochs": 1, "batch_size": BATCH})
    fit(tower, data, config, own_colour(data), folder, initialize=initialize)
    return {"weights": [each.numpy() for each in tower.model.trainable_variables], "calls": calls}


def computed(folder: Path) -> Iterator[tuple[str, Any]]:
    """Everything that this worker computes, by name."""
    workers = join_workers()
    own = folder / f"worker-{workers.rank}"
    for name, model in GRADIENTS.items():
        for gather in (False, True):
            yield f"{name}, {gather}", gradients(model, workers, BATCH, gather)
    yield "stock", gradients({}, StockGather(), BATCH, gather=True)
    for name, case in FITS.items():
        yield f"fit {name}", fitted(case, own / name, BATCH)
    yield "resumed", resumed(own / "resumed")
    yield "initialized", initialized(own / "initialized")


def main(folder: Path) -> None:
    results = dict(computed(folder))
    (folder / f"worker-{join_workers().rank}.pickle").write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
