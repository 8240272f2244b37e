"""What several workers exchange during a training: gradients, weights, losses, item vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import tensorflow as tf

from twotower.models.distributed.launcher import place
from twotower.models.errors import ModelError

Value = TypeVar("Value")


class Workers:
    """The processes that train a model together. This class is a process that trains alone.

    Attributes
    ----------
    rank : int
        Number of this worker, from 0.
    size : int
        Number of workers.
    """

    rank, size = 0, 1

    @property
    def is_first(self) -> bool:
        """Whether this worker validates, and writes all files."""
        return self.rank == 0

    def optimizer(self, optimizer: tf.keras.optimizers.Optimizer) -> tf.keras.optimizers.Optimizer:
        """Return an optimizer that applies the mean of all workers' gradients."""
        return optimizer

    def broadcast(self, variables: Sequence[tf.Variable]) -> None:
        """Set the variables of all workers to the values that those of the first worker have."""

    def of_first(self, function: Callable[..., Value]) -> Callable[..., Value]:
        """Return a function that calls `function` on the first worker, and returns its result.

        All workers must call the new function, and each gets the result, which must be picklable.
        """
        return function

    def mean(self, value: tf.Tensor) -> tf.Tensor:
        """Return the mean of the workers' `value`, a float32 scalar; its gradient is the own one's.

        `optimizer` averages the gradients.
        """
        return value

    def gather(self, values: tf.Tensor, name: str) -> tf.Tensor:
        """Concatenate the workers' `values` [n, ...], where n may differ; without a gradient.

        `name` identifies the exchange: no other may have it.
        """
        return values

    def gather_vectors(self, vectors: tf.Tensor, name: str) -> tf.Tensor:
        """Concatenate the workers' `vectors` float32 [n, dim], where n may differ.

        The gradient of a worker's vectors is the sum over the losses of all workers. Horovod's own
        `allgather` has their mean.
        """
        return vectors

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raise ModelError in the block if another worker has ended."""
        yield


class HorovodWorkers(Workers):
    """The workers that a launcher has started, connected by Horovod."""

    def __init__(self) -> None:
        import horovod.tensorflow.keras as hvd

        hvd.init()
        self.hvd, self.rank, self.size = hvd, hvd.rank(), hvd.size()

    def optimizer(self, optimizer: tf.keras.optimizers.Optimizer) -> tf.keras.optimizers.Optimizer:
        # A gradient of an embedding table has the rows of the batch alone. Those of all workers are
        # concatenated, not added up into a table. Keras merges the rows that several workers have.
        return self.hvd.DistributedOptimizer(optimizer)

    def broadcast(self, variables: Sequence[tf.Variable]) -> None:
        from horovod.tensorflow.functions import broadcast_variables

        broadcast_variables(variables, root_rank=0)

    def of_first(self, function: Callable[..., Value]) -> Callable[..., Value]:
        from horovod.tensorflow.functions import broadcast_object

        def call(*args: Any) -> Value:
            return broadcast_object(function(*args) if self.is_first else None, name="twotower")

        return call

    def mean(self, value: tf.Tensor) -> tf.Tensor:
        mean = self._reduced(value, "loss") / self.size
        return value + tf.stop_gradient(mean - value)

    def gather(self, values: tf.Tensor, name: str) -> tf.Tensor:
        import horovod.tensorflow as hvd

        return tf.stop_gradient(hvd.allgather(values, name=f"twotower.{name}"))

    def gather_vectors(self, vectors: tf.Tensor, name: str) -> tf.Tensor:
        import horovod.tensorflow as hvd

        sizes = self.gather(tf.shape(vectors)[:1], f"{name}.sizes")
        begin = tf.reduce_sum(sizes[: self.rank])

        @tf.custom_gradient
        def gathered(vectors: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                total = self._reduced(tf.convert_to_tensor(upstream), f"{name}.gradient")
                return total[begin : begin + sizes[self.rank]]

            return hvd.allgather(vectors, name=f"twotower.{name}"), gradient

        return gathered(vectors)

    def _reduced(self, value: tf.Tensor, name: str) -> tf.Tensor:
        """The sum of the workers' `value`, which has the same shape in all of them."""
        import horovod.tensorflow as hvd

        return hvd.allreduce(value, op=hvd.Sum, name=f"twotower.{name}")

    @contextmanager
    def watched(self) -> Iterator[None]:
        from horovod.common.exceptions import HorovodInternalError

        try:
            yield
        except (HorovodInternalError, tf.errors.OpError) as error:
            if isinstance(error, tf.errors.OpError) and "horovod" not in str(error).lower():
                raise
            raise ModelError(
                f"worker {self.rank} of {self.size} has lost the others: another worker has ended, "
                "and its own message says why. Start all of them again; the training continues "
                "from its last saved state"
            ) from error


@cache
def join_workers() -> Workers:
    """Connect to the other workers if a launcher has started several.

    To be called before the first operation of TensorFlow, so that each worker gets a GPU.

    Raises
    ------
    ModelError
        If Horovod is not installed, or is not connected to the workers that were started.
    """
    given = place()
    if given.size == 1:
        return Workers()
    try:
        workers = HorovodWorkers()
    except ImportError as error:
        raise ModelError(
            f"this process is worker {given.rank} of {given.size}, but Horovod is not installed "
            f"({error}); run `make horovod`, or train without a launcher"
        ) from error
    if (workers.rank, workers.size) != (given.rank, given.size):
        raise ModelError(
            f"the launcher started worker {given.rank} of {given.size}, but for Horovod this is "
            f"worker {workers.rank} of {workers.size}; it was built for another launcher, see "
            "`horovodrun --check-build`"
        )
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        tf.config.set_visible_devices(gpus[workers.hvd.local_rank() % len(gpus)], "GPU")
    _take_from_merlin()
    return workers


def _take_from_merlin() -> None:
    """Turn off Merlin's own use of Horovod.

    It multiplies the learning rate by the number of workers, replaces the optimizer, whose
    variables a checkpoint has to find, by a new one, and averages metrics that all workers must
    have, while here the first one alone validates.
    """
    from merlin.models.tf.models import base

    base.hvd_installed = False  # type: ignore[attr-defined]  # Merlin has no other switch
