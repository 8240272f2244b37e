"""Keras callbacks: full-catalogue validation with a checkpoint of the best epoch, and progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import tensorflow as tf

from models.errors import ModelError


class FullCatalogueValidation(tf.keras.callbacks.Callback):
    """Adds `val_<metric>` to the logs of every epoch and checkpoints the best one.

    Merlin's own validation ranks the batch, not the catalogue; what is early-stopped on must be
    what is reported.
    """

    def __init__(
        self,
        validate: Callable[[tf.keras.Model], Mapping[str, float]],
        monitor: str,
        checkpoint: Path,
    ):
        super().__init__()
        self.validate, self.monitor, self.path = validate, monitor, str(checkpoint)
        self.best = float("-inf")

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs):
        logs["seconds"] = time.perf_counter() - self.started
        logs.update({f"val_{name}": value for name, value in self.measure().items()})

    def measure(self) -> Mapping[str, float]:
        """Validate the model as it is; checkpoint it when it is the best so far."""
        metrics = self.validate(self.model)
        if self.monitor not in metrics:
            raise ModelError(
                f"training.monitor: {self.monitor!r} is not measured; choose one of "
                f"{', '.join(sorted(metrics))}"
            )
        if metrics[self.monitor] > self.best:
            self.best = metrics[self.monitor]
            self._checkpoint().write(self.path)
        return metrics

    def restore_best(self) -> None:
        """Put the best epoch's weights and optimizer state back."""
        self._checkpoint().read(self.path).expect_partial()

    def _checkpoint(self) -> tf.train.Checkpoint:
        return tf.train.Checkpoint(model=self.model, optimizer=self.model.optimizer)


class ReportProgress(tf.keras.callbacks.Callback):
    """Calls `progress(step, steps, text)` about four times a second."""

    def __init__(
        self, progress: Callable[[int, int, str], None], steps: int, epochs: int, first: int
    ):
        super().__init__()
        self.progress, self.steps, self.epochs, self.first = progress, steps, epochs, first
        self.epoch, self.told, self.text = 0, 0.0, ""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if time.perf_counter() - self.told > 0.25:
            self.told = time.perf_counter()
            done = (self.epoch - self.first) * self.steps + batch + 1
            text = f"epoch {self.epoch + 1}, loss {logs['loss']:.3f}{self.text}"
            self.progress(done, self.steps * self.epochs, text)

    def on_epoch_end(self, epoch, logs):
        best = {k: v for k, v in logs.items() if k.startswith("val_ndcg")}
        self.text = "".join(f", {k[4:]} {v:.4f}" for k, v in list(best.items())[:1])
