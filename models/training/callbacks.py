"""Between the steps of a fit: validation, the best epoch kept, a state to go on from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import tensorflow as tf

from twotower.models.errors import ModelError

TOLD_EVERY = 0.25  # seconds


class Progress(tf.train.experimental.PythonState):
    """How far a training is; saved in the same checkpoint as the weights.

    history : per epoch the loss, seconds, validation_seconds and every metric as `val_<name>`
    steps, loss, seconds : of the epoch that has begun: steps done, sum of their losses, time
    """

    def __init__(self):
        self.history: dict[str, list[float | None]] = {}
        self.steps, self.loss, self.seconds = 0, 0.0, 0.0

    @property
    def epochs(self) -> int:
        """How many epochs are done."""
        return len(self.history.get("loss", []))

    def best(self, monitor: str) -> int:
        """The epoch (from 0) with the highest validation metric, the first of equal ones."""
        scores = self.history[f"val_{monitor}"]
        return max(range(len(scores)), key=scores.__getitem__)

    def serialize(self) -> str:
        """For TensorFlow's checkpoint."""
        fields = ("history", "steps", "loss", "seconds")
        return json.dumps({name: getattr(self, name) for name in fields})

    def deserialize(self, text: str) -> None:
        """From TensorFlow's checkpoint."""
        for name, value in json.loads(text).items():
            setattr(self, name, value)


def weights(model: tf.keras.Model) -> tf.train.Checkpoint:
    """The model's variables without its optimizer's, to write and to read."""
    return tf.train.Checkpoint(weights=list(model.weights))


class TrainingState:
    """A folder from which an interrupted training goes on, with its best epoch's weights.

    Weights, the optimizer's variables and the progress are one checkpoint, so that they always
    belong together; the best weights of epoch e are best-<e>, and stay as long as a state says
    that e is the best. `more` is what else a training has to find as it was.
    """

    def __init__(self, model: tf.keras.Model, folder: Path, **more: tf.Module):
        self.progress = Progress()
        self._folder = folder
        self._weights = weights(model)
        everything = tf.train.Checkpoint(
            model=model, optimizer=model.optimizer, progress=self.progress, **more
        )
        self._manager = tf.train.CheckpointManager(everything, str(folder / "state"), 1)

    def restore(self) -> None:
        """Take up what the folder holds; nothing happens when it is empty.

        Raises ModelError when it is damaged or of another model.
        """
        latest = self._manager.latest_checkpoint
        if latest is None:
            return
        try:
            status = self._manager.checkpoint.restore(latest)
            status.assert_existing_objects_matched()
        # IndexError is what TensorFlow's reader makes of a file that is too short.
        except (AssertionError, IndexError, ValueError, tf.errors.OpError) as error:
            raise ModelError(
                f"{self._folder}: the state of the training begun here is damaged or of another "
                "model; remove that folder to train from the start"
            ) from error

    def save(self) -> None:
        """Replace the state in the folder by the present one."""
        self._manager.save()

    def keep_best(self, epoch: int) -> None:
        """Keep the present weights as those of `epoch`, the best so far, and the state."""
        self._weights.write(str(self._folder / f"best-{epoch}"))
        self.save()
        for file in self._folder.glob("best-*"):
            if file.stem != f"best-{epoch}":
                file.unlink()

    def restore_best(self, epoch: int) -> None:
        """Put the best epoch's weights into the model."""
        self._weights.read(str(self._folder / f"best-{epoch}")).assert_consumed()


class ValidateAndKeep(tf.keras.callbacks.Callback):
    """Validates every epoch on the full catalogue, keeps the best, stops when none is better.

    Merlin's own validation ranks the batch, not the catalogue; what is early-stopped on must be
    what is reported. The state is saved every `seconds`, also within an epoch.
    """

    def __init__(
        self,
        state: TrainingState,
        validate: Callable[[tf.keras.Model], Mapping[str, float]],
        monitor: str,
        patience: int,
        seconds: float,
    ):
        super().__init__()
        self.state, self.validate = state, validate
        self.monitor, self.patience, self.seconds = monitor, patience, seconds
        self.saved = time.perf_counter()

    def on_epoch_begin(self, epoch, logs=None):
        progress = self.state.progress
        self.before = progress.steps, progress.loss, progress.seconds
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs):
        late = time.perf_counter() - self.saved > self.seconds
        if late and batch + 1 < self.params["steps"]:
            self._note(batch + 1, logs["loss"])
            self._save()

    def on_epoch_end(self, epoch, logs):
        progress = self.state.progress
        self._note(self.params["steps"], logs["loss"])
        logs.update(self._validated(self.model, progress.loss / progress.steps, progress.seconds))
        self.model.stop_training = epoch - progress.best(self.monitor) >= self.patience

    def count(self, model: tf.keras.Model, begin: Callable[[], None]) -> None:
        """Count what `begin` makes of the model as an epoch, one without a loss."""
        began = time.perf_counter()
        begin()
        self._validated(model, None, time.perf_counter() - began)

    def _validated(
        self, model: tf.keras.Model, loss: float | None, seconds: float
    ) -> dict[str, float | None]:
        """Validate the epoch that ends here and note it; keep it when it is the best."""
        progress, began = self.state.progress, time.perf_counter()
        metrics = self.validate(model)
        if self.monitor not in metrics:
            raise ModelError(
                f"training.monitor: {self.monitor!r} is not measured; choose one of "
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
        if progress.best(self.monitor) == epoch:
            self.state.keep_best(epoch)
            self.saved = time.perf_counter()
        return results

    def _note(self, steps: int, mean_loss: float) -> None:
        """Add what this fit has done of the epoch to what was done of it before."""
        progress, (done, loss, seconds) = self.state.progress, self.before
        progress.steps = done + steps
        progress.loss = loss + float(mean_loss) * steps
        progress.seconds = seconds + time.perf_counter() - self.began

    def _save(self) -> None:
        self.state.save()
        self.saved = time.perf_counter()


class LearningRate(tf.keras.callbacks.Callback):
    """The learning rate of each step: `rate` * `decay` ** epoch, and less in the first steps.

    In the first `warmup` steps, counted from 1, it is step / warmup of that (Goyal et al.,
    "Accurate, Large Minibatch SGD", 2017): while the embeddings are random, large steps would
    follow gradients that mean little.
    """

    def __init__(self, rate: float, decay: float, warmup: int):
        super().__init__()
        self.rate, self.decay, self.warmup = rate, decay, warmup

    def on_epoch_begin(self, epoch, logs=None):
        self.full = self.rate * self.decay**epoch
        self.done = int(self.model.optimizer.iterations)
        self.model.optimizer.learning_rate = self.full

    def on_train_batch_begin(self, batch, logs=None):
        # Keras counts batches from 0 in every fit; steps go on.
        step = self.done + batch + 1
        if step <= self.warmup:
            self.model.optimizer.learning_rate = self.full * step / self.warmup

    def on_epoch_end(self, epoch, logs):
        logs["learning_rate"] = self.full


class ReportProgress(tf.keras.callbacks.Callback):
    """Calls `progress(step, steps, text)` about four times a second; counts steps from `first`."""

    def __init__(self, progress: Callable[[int, int, str], None], first: int, steps: int):
        super().__init__()
        self.progress, self.done, self.steps = progress, first, steps
        self.told, self.epoch, self.text = 0.0, 0, ""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs):
        self.done += 1
        if time.perf_counter() - self.told > TOLD_EVERY:
            self.told = time.perf_counter()
            text = f"epoch {self.epoch + 1}, loss {logs['loss']:.3f}{self.text}"
            self.progress(self.done, self.steps, text)

    def on_epoch_end(self, epoch, logs):
        best = {k: v for k, v in logs.items() if k.startswith("val_ndcg")}
        self.text = "".join(f", {k[4:]} {v:.4f}" for k, v in list(best.items())[:1])
