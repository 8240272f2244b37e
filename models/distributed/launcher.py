"""Which of several workers this process is, and which settings several workers can train.

Nothing heavy is imported here, so that both are known before TensorFlow is.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twotower.models.errors import ModelError

if TYPE_CHECKING:
    from twotower.models.config import TwoTowerConfig

LAUNCHERS = (
    ("HOROVOD_RANK", "HOROVOD_SIZE"),  # horovodrun with Gloo
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # horovodrun with Open MPI, and mpirun
)
"""The variables that launchers set: the number of the worker, and how many workers there are."""


@dataclass(frozen=True)
class Place:
    """The place of this process among the workers.

    Attributes
    ----------
    rank : int
        Number of the worker, from 0. Worker 0 validates, and writes all files.
    size : int
        Number of workers.
    """

    rank: int = 0
    size: int = 1


def place() -> Place:
    """Return the place of this process; that of a single worker without a launcher.

    Raises
    ------
    ModelError
        If the variables of the launcher are not numbers.
    """
    for rank, size in LAUNCHERS:
        if rank in os.environ and size in os.environ:
            try:
                return Place(int(os.environ[rank]), int(os.environ[size]))
            except ValueError:
                raise ModelError(
                    f"{rank}={os.environ[rank]} and {size}={os.environ[size]} must be whole "
                    "numbers; `horovodrun` sets them, remove them to train with one process"
                ) from None
    return Place()


def prepare() -> None:
    """Set up this process as a worker; to be called before TensorFlow is imported.

    If a worker ends, `horovodrun` terminates the others. They then end as after Ctrl-C, with a
    message.
    """
    # Horovod would warn every minute that the first worker keeps the others waiting, as it does
    # while it validates, and describe a lost connection before this project's own message.
    os.environ.setdefault("HOROVOD_LOG_LEVEL", "fatal")
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))


def unsupported(model: TwoTowerConfig) -> str | None:
    """Say which setting several workers cannot train.

    Parameters
    ----------
    model : TwoTowerConfig

    Returns
    -------
    str or None
        What is wrong and what to do; None if several workers can train the model.
    """
    settings = {
        "model.sequence": model.sequence is not None,
        "model.graph": model.graph is not None,
        "model.objective.negatives: cross_batch": model.objective.negatives == "cross_batch",
    }
    wrong = [name for name, is_set in settings.items() if is_set]
    if not wrong:
        return None
    return (
        f"{wrong[0]} cannot be trained by several workers; run `twotower train` without horovodrun"
    )
