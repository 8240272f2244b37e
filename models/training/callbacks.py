"""Keras callbacks of a fit: validation and early stopping, learning rate, progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import tensorflow as tf

from twotower.models.errors import ModelError
from twotower.models.training.checkpoint import TrainingState
from twotower.models.training.config import TrainingConfig
from twotower.models.training.model import best_epoch

REPORT_SECONDS = 0.25  # between two calls of `progress`


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
    """

    def __init__(
        self,
        state: TrainingState,
        validate: Callable[[tf.keras.Model], Mapping[str, float]],
        config: TrainingConfig,
    ):
        super().__init__()
        self.state, self.validate, self.config = state, validate, config
        self.last_save = time.perf_counter()

    def on_epoch_begin(self, epoch, logs=None):
        progress = self.state.progress
        self.before_resume = progress.steps, progress.loss, progress.seconds
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs):
        is_due = time.perf_counter() - self.last_save > self.config.checkpoint_seconds
        if is_due and batch + 1 < self.params["steps"]:
            self._update_progress(batch + 1, logs["loss"])
            self.state.save()
            self.last_save = time.perf_counter()

    def on_epoch_end(self, epoch, logs):
        progress = self.state.progress
        self._update_progress(self.params["steps"], logs["loss"])
        mean_loss = progress.loss / progress.steps
        logs.update(self._finish_epoch(self.model, mean_loss, progress.seconds))
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
        self._finish_epoch(model, None, time.perf_counter() - began)

    def _finish_epoch(
        self, model: tf.keras.Model, loss: float | None, seconds: float
    ) -> dict[str, float | None]:
        """Validate the model, add the epoch to the history, and save it if it is the best."""
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
        epoch = progress.epochs - 1
        if best_epoch(progress.history, self.config.monitor) == epoch:
            self.state.save_best(epoch)
            self.last_save = time.perf_counter()
        return results

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
