"""The effect of the position at which an item was shown: a term of the logit in training alone."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


class PositionBias(tf.Module):
    """A number per position that is added to the logit of the first label.

    Users see the top of a list first, so an item that was shown there has more clicks than it would
    have elsewhere. This term explains that part of the clicks, so the network does not have to, and
    the server leaves it out (the shallow tower of Zhao et al., RecSys 2019).

    Parameters
    ----------
    positions : ndarray of int, shape (n,)
        Those of all rows. The numbers are centred to a mean of 0 over these rows, so an answer
        without the term is that of an average row.
    """

    def __init__(self, positions: np.ndarray) -> None:
        super().__init__()
        counts = np.bincount(positions)
        self._shares = (counts / counts.sum()).astype(np.float32)
        self.table = tf.Variable(np.zeros(len(counts), np.float32), name="positions")

    def centred(self) -> tf.Tensor:
        """Return the number of each position, float32 [positions]."""
        return self.table - tf.reduce_sum(self.table * self._shares)

    def added(self, logits: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
        """Return logits [n, c, labels] with the term of the positions [n, c] in the first one."""
        first = logits[..., :1] + tf.gather(self.centred(), positions)[..., None]
        return tf.concat([first, logits[..., 1:]], axis=-1)
