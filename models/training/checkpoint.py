"""The checkpoints of a training: progress, model and optimizer, and the best epoch's weights."""

from __future__ import annotations

import json
from pathlib import Path

import tensorflow as tf

from twotower.models.errors import ModelError
from twotower.models.training.model import History


class Progress(tf.train.experimental.PythonState):
    """How far a training has come; saved in the same checkpoint as the weights.

    Attributes
    ----------
    history : History
        The finished epochs.
    steps : int
        Number of finished steps of the current epoch.
    loss : float
        Sum of the losses of these steps.
    seconds : float
        Training time of these steps.
    """

    def __init__(self) -> None:
        self.history: History = {}
        self.steps, self.loss, self.seconds = 0, 0.0, 0.0

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        return len(self.history.get("loss", []))

    def serialize(self) -> str:
        """Return the state as text; TensorFlow calls it to write a checkpoint."""
        fields = ("history", "steps", "loss", "seconds")
        return json.dumps({name: getattr(self, name) for name in fields})

    def deserialize(self, text: str) -> None:
        """Restore the state from text; TensorFlow calls it to read a checkpoint."""
        for name, value in json.loads(text).items():
            setattr(self, name, value)


class TrainingState:
    """A folder from which an interrupted training resumes.

    Weights, optimizer variables and progress are one checkpoint, so that they always belong
    together. The weights of the best epoch e are in `best-<e>`, which is kept as long as the
    checkpoint names e as the best epoch.

    Parameters
    ----------
    model : tf.keras.Model
        With an optimizer whose variables exist.
    folder : Path
    more : tf.Module or None
        Other objects to save in the checkpoint, by name.
    """

    def __init__(self, model: tf.keras.Model, folder: Path, **more: tf.Module | None):
        self.progress = Progress()
        self._folder = folder
        self._weights = weights_checkpoint(model)
        saved = {name: each for name, each in more.items() if each is not None}
        checkpoint = tf.train.Checkpoint(
            model=model, optimizer=model.optimizer, progress=self.progress, **saved
        )
        self._manager = tf.train.CheckpointManager(checkpoint, str(folder / "state"), 1)

    def restore(self) -> None:
        """Read the checkpoint in the folder, if there is one.

        Raises
        ------
        ModelError
            If the checkpoint is damaged or belongs to another model.
        """
        latest = self._manager.latest_checkpoint
        if latest is None:
            return
        try:
            status = self._manager.checkpoint.restore(latest)
            status.assert_existing_objects_matched()
        # TensorFlow raises IndexError for a file that is too short.
        except (AssertionError, IndexError, ValueError, tf.errors.OpError) as error:
            raise ModelError(
                f"{self._folder}: the saved state of the training is damaged or of another model; "
                "remove that folder to train from the start"
            ) from error

    def save(self) -> None:
        """Replace the checkpoint in the folder with the current state."""
        self._manager.save()

    def write_best(self, epoch: int) -> None:
        """Write the current weights as those of the best epoch so far, for `save_with_best`.

        Parameters
        ----------
        epoch : int
            Number of the epoch, from 0.
        """
        self._weights.write(str(self._folder / f"best-{epoch}"))

    def save_with_best(self, epoch: int) -> None:
        """Save the current state, and remove the weights of other epochs than the best one.

        Parameters
        ----------
        epoch : int
            Number of the epoch, from 0.
        """
        self.save()
        for file in self._folder.glob("best-*"):
            if file.stem != f"best-{epoch}":
                file.unlink()

    def restore_best(self, epoch: int) -> None:
        """Read the weights of the best epoch into the model.

        Parameters
        ----------
        epoch : int
            Number of the epoch, from 0.
        """
        self._weights.read(str(self._folder / f"best-{epoch}")).assert_consumed()


def weights_checkpoint(model: tf.keras.Model) -> tf.train.Checkpoint:
    """Return a checkpoint of the model's weights without the optimizer's variables.

    Parameters
    ----------
    model : tf.keras.Model

    Returns
    -------
    tf.train.Checkpoint
    """
    return tf.train.Checkpoint(weights=list(model.weights))
