"""The state of a training that several workers share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from twotower.models.distributed.workers import Workers
from twotower.models.training.checkpoint import TrainingState


class SharedState(TrainingState):
    """The state of the first worker, which alone reads and writes the folder.

    Parameters
    ----------
    workers : Workers
        All of them must create the state, and call its methods in the same order; only `save` may
        also be called by some of them.
    model : tf.keras.Model
    folder : Path
    more : tf.Module or None
        See `TrainingState`.
    """

    def __init__(
        self, workers: Workers, model: tf.keras.Model, folder: Path, **more: tf.Module | None
    ):
        super().__init__(model, folder, **more)
        self._workers, self._model = workers, model
        self._more = [each for each in more.values() if each is not None]

    @property
    def is_written(self) -> bool:
        """Whether this worker writes files."""
        return self._workers.is_first

    @property
    def steps(self) -> int:
        """Number of steps of all epochs that are done."""
        return int(self._model.optimizer.iterations)

    def initialized(self, initialize: Callable[[], None]) -> Callable[[], None]:
        """Return a function that calls `initialize` on the first worker, for the weights of all."""

        def call() -> None:
            if self._workers.is_first:
                initialize()
            self.broadcast()

        return call

    def broadcast(self) -> None:
        """Give all workers the weights, the optimizer's variables and the progress of the first."""
        variables = [*self._model.variables, *self._model.optimizer.variables]
        variables += [variable for each in self._more for variable in each.variables]
        self._workers.broadcast(variables)
        self.progress.deserialize(self._workers.of_first(self.progress.serialize)())

    def restore(self) -> None:
        if self.is_written:
            super().restore()
        self.broadcast()

    def save(self) -> None:
        if self.is_written:
            super().save()

    def write_best(self, epoch: int) -> None:
        if self.is_written:
            super().write_best(epoch)

    def save_with_best(self, epoch: int) -> None:
        if self.is_written:
            super().save_with_best(epoch)

    def restore_best(self, epoch: int) -> None:
        if self.is_written:
            super().restore_best(epoch)
        self._workers.broadcast(self._model.variables)
