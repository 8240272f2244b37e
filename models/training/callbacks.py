"""Keras callbacks of a fit: validation, averaged weights, learning rate, progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import tensorflow as tf

from twotower.models.errors import ModelError
from twotower.models.training.checkpoint import TrainingState
from twotower.models.training.config import TrainingConfig
from twotower.models.training.model import best_epoch

REPORT_SECONDS = 0.25  # between two calls of `progress`
# A checkpoint that takes longer than this to write is written less often, so that writing takes at
# most a thirtieth of the time.
LONG_SAVE, TIMES_OF_SAVE = 1.0, 30


class WeightAverages(tf.Module):
    """Moving averages of the weights over the steps; they start from the current values.

    Parameters
    ----------
    variables : sequence of tf.Variable
    steps : float
        With d = exp(-1 / steps), an average becomes d times itself plus 1 - d times the weight in
        each step.

    Notes
    -----
    Weights jump around a minimum with the noise of the batches, and their average is nearer to it
    (Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992).
    """

    def __init__(self, variables: Sequence[tf.Variable], steps: float):
        super().__init__()
        self.weights, self.decay = tuple(variables), math.exp(-1 / steps)
        self.averages = tuple(tf.Variable(weight, trainable=False) for weight in self.weights)

    def start(self) -> None:
        """Start again from the current weights."""
        self._assign(self.averages, self.weights)

    @tf.function(autograph=False)
    def update(self) -> None:
        """Take the weights of a step into the averages."""
        for average, weight in zip(self.averages, self.weights, strict=True):
            average.assign_add((1 - self.decay) * (weight - average))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Set the weights to the averages; at the end they are again what they were."""
        trained = [weight.numpy() for weight in self.weights]
        self._assign(self.weights, self.averages)
        try:
            yield
        finally:
            self._assign(self.weights, trained)

    @staticmethod
    def _assign(variables: Sequence[tf.Variable], values: Sequence[Any]) -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


class Validation(tf.keras.callbacks.Callback):
    """Validate after each epoch, keep the best one, stop early, and save the state in between.

    Merlin's own validation ranks the items of a batch. This one ranks the full catalogue, so that
    the metric that chooses the epoch is the metric that is reported.

    Parameters
    ----------
    state : TrainingState
    validate : callable (model) -> mapping of str to float
        Returns the metrics by name.
    config : TrainingConfig
        For the monitored metric, the patience and the seconds between checkpoints.
    averages : WeightAverages or None
        Validated and kept as the best epoch instead of the weights of the last step.
    finish_epoch : callable (), optional
        Sets the weights of the model that follow from the trained ones, before the validation.
    full_batches : float, optional
        Number of full batches of an epoch, if the last ones are filled up with interactions that
        have no loss; the loss of an epoch is the mean over these. Default: all batches are full.
    """

    def __init__(
        self,
        state: TrainingState,
        validate: Callable[[tf.keras.Model], Mapping[str, float]],
        config: TrainingConfig,
        averages: WeightAverages | None = None,
        finish_epoch: Callable[[], None] | None = None,
        full_batches: float | None = None,
    ):
        super().__init__()
        self.state, self.validate, self.config = state, validate, config
        self.averages, self.finish_epoch = averages, finish_epoch
        self.full_batches = full_batches
        self.last_save, self.pause = time.perf_counter(), config.checkpoint_seconds

    def on_epoch_begin(self, epoch, logs=None):
        progress = self.state.progress
        self.before_resume = progress.steps, progress.loss, progress.seconds
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs):
        if self.averages:
            self.averages.update()
        is_due = time.perf_counter() - self.last_save > self.pause
        if is_due and batch + 1 < self.params["steps"]:
            self._update_progress(batch + 1, logs["loss"])
            began = time.perf_counter()
            self.state.save()
            self._saved(time.perf_counter() - began)

    def on_epoch_end(self, epoch, logs):
        progress = self.state.progress
        self._update_progress(self.params["steps"], logs["loss"])
        mean_loss = progress.loss / (self.full_batches or progress.steps)
        with self.averages.applied() if self.averages else nullcontext():
            if self.finish_epoch:
                self.finish_epoch()
            logs.update(self._validate(self.model, mean_loss, progress.seconds))
        self._save_if_best()
        stale = epoch - best_epoch(progress.history, self.config.monitor)
        self.model.stop_training = stale >= self.config.patience

    def run_initial(self, model: tf.keras.Model, initialize: Callable[[], None]) -> None:
        """Set the initial weights, and record them as the first epoch, one without a loss.

        Parameters
        ----------
        model : tf.keras.Model
        initialize : callable ()
            Sets the weights of the model.
        """
        began = time.perf_counter()
        initialize()
        if self.averages:
            self.averages.start()
        self._validate(model, None, time.perf_counter() - began)
        self._save_if_best()

    def _validate(
        self, model: tf.keras.Model, loss: float | None, seconds: float
    ) -> dict[str, float | None]:
        """Validate the model, add the epoch to the history, and write its weights if it is best."""
        progress, began = self.state.progress, time.perf_counter()
        metrics = self.validate(model)
        if self.config.monitor not in metrics:
            raise ModelError(
                f"training.monitor: {self.config.monitor!r} is not measured; choose one of "
                f"{', '.join(sorted(metrics))}"
            )
        results = {
            "loss": loss,
            "seconds": float(seconds),
            "validation_seconds": time.perf_counter() - began,
            **{f"val_{name}": float(value) for name, value in metrics.items()},
        }
        for name, value in results.items():
            progress.history.setdefault(name, []).append(value)
        progress.steps, progress.loss, progress.seconds = 0, 0.0, 0.0
        if self._is_best():
            self.state.write_best(progress.epochs - 1)
        return results

    def _is_best(self) -> bool:
        """Whether the last epoch is the best one."""
        progress = self.state.progress
        return best_epoch(progress.history, self.config.monitor) == progress.epochs - 1

    def _save_if_best(self) -> None:
        if self._is_best():
            began = time.perf_counter()
            self.state.save_with_best(self.state.progress.epochs - 1)
            self._saved(time.perf_counter() - began)

    def _saved(self, seconds: float) -> None:
        """Choose when to save next, after a checkpoint that took so many seconds to write."""
        self.last_save, self.pause = time.perf_counter(), self.config.checkpoint_seconds
        if seconds > LONG_SAVE:
            self.pause = max(self.pause, TIMES_OF_SAVE * seconds)

    def _update_progress(self, steps: int, mean_loss: float) -> None:
        """Add the steps of this fit to what was done of the epoch before the interruption."""
        progress, (steps_before, loss, seconds) = self.state.progress, self.before_resume
        progress.steps = steps_before + steps
        progress.loss = loss + float(mean_loss) * steps
        progress.seconds = seconds + time.perf_counter() - self.began


class LearningRate(tf.keras.callbacks.Callback):
    """Set the learning rate of each step: `rate` * `decay` ** epoch, lower in the warm-up.

    Parameters
    ----------
    rate : float
        Learning rate of the first epoch.
    decay : float
        Factor per epoch.
    warmup : int
        Number of warm-up steps.

    Notes
    -----
    Step i of the warm-up, counted from 1, has i / warmup of the rate (Goyal et al., "Accurate,
    Large Minibatch SGD", 2017): while the embeddings are random, gradients say little, and large
    steps would follow them.
    """

    def __init__(self, rate: float, decay: float, warmup: int):
        super().__init__()
        self.rate, self.decay, self.warmup = rate, decay, warmup

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_rate = self.rate * self.decay**epoch
        self.steps_before = int(self.model.optimizer.iterations)
        self.model.optimizer.learning_rate = self.epoch_rate

    def on_train_batch_begin(self, batch, logs=None):
        # Keras counts batches from 0 in every fit; the optimizer counts the steps of all fits.
        step = self.steps_before + batch + 1
        if step <= self.warmup:
            self.model.optimizer.learning_rate = self.epoch_rate * step / self.warmup

    def on_epoch_end(self, epoch, logs):
        logs["learning_rate"] = self.epoch_rate


class ReportProgress(tf.keras.callbacks.Callback):
    """Report the progress about four times per second.

    Parameters
    ----------
    progress : callable (step, steps, text)
    first_step : int
        Number of steps that were done before.
    steps : int
        Number of steps of all epochs.
    """

    def __init__(self, progress: Callable[[int, int, str], None], first_step: int, steps: int):
        super().__init__()
        self.progress, self.step, self.steps = progress, first_step, steps
        self.last_report, self.epoch, self.metric = 0.0, 0, ""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs):
        self.step += 1
        if time.perf_counter() - self.last_report > REPORT_SECONDS:
            self.last_report = time.perf_counter()
            text = f"epoch {self.epoch + 1}, loss {logs['loss']:.3f}{self.metric}"
            self.progress(self.step, self.steps, text)

    def on_epoch_end(self, epoch, logs):
        ndcg = [name for name in logs if name.startswith("val_ndcg")]
        self.metric = "".join(f", {name[4:]} {logs[name]:.4f}" for name in ndcg[:1])
