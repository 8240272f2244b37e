"""Mined hard negatives: for each user, the items that the current towers rank highly.

Between epochs all items are ranked for every user, and the negatives of the next epoch are drawn
from a range of these ranks (ANCE: Xiong et al., ICLR 2021). Leaving out the very top ranks and
mixing in random negatives follows Huang et al., "Embedding-based Retrieval in Facebook Search",
KDD 2020.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from scipy.sparse import csr_matrix

from twotower.models.evaluation.ranking import binary, rank_in_batches
from twotower.models.objective.sampling import sample_uniform
from twotower.models.training.checkpoint import Progress
from twotower.models.training.data import TrainingData
from twotower.models.two_tower import TowerScorer

if TYPE_CHECKING:
    import merlin.models.tf as mm

BATCH_SIZE = 1024  # users ranked at once


class MinedNegatives(tf.Module):
    """For each user, the items at some ranks, from which negatives are drawn.

    Parameters
    ----------
    data : TrainingData
        None of its positives becomes a mined negative.
    ranks : tuple of int
        First rank, counted from 0 among the items that are not positives of the user, and the
        rank after the last.
    share : float
        Fraction of mined negatives, in (0, 1]; the others are uniform.

    Attributes
    ----------
    lists : tf.Variable of int32, shape (n_users, width)
        Item rows of each user.
    """

    def __init__(self, data: TrainingData, ranks: tuple[int, int], share: float):
        super().__init__()
        self.data, self.ranks, self.share = data, ranks, share
        shape = (data.n_users, data.n_items)
        ones = np.ones(len(data.user_rows), bool)
        self.positives = binary(csr_matrix((ones, (data.user_rows, data.item_rows)), shape))
        width = min(ranks[1], data.n_items) - min(ranks[0], data.n_items - 1)
        # A variable is saved in checkpoints, so that a resumed epoch keeps its negatives.
        self.lists = tf.Variable(tf.zeros([data.n_users, width], tf.int32), trainable=False)

    def mine(self, model: mm.RetrievalModelV2) -> None:
        """Rank all items for all users with the current towers, and keep those at `ranks`.

        If a user has fewer items at these ranks, they are repeated; if there are none, items at
        better ranks are used. If all items are positives of a user, the positives are ranked. Users
        without positives have no training rows, so their lists are not filled.

        Parameters
        ----------
        model : mm.RetrievalModelV2
        """
        scorer = TowerScorer.of(model, self.data.users, self.data.items)
        n_users, n_items = self.positives.shape
        n_positives = np.diff(self.positives.indptr)
        lists = np.zeros(self.lists.shape, np.int32)
        for users, seen in (
            (np.flatnonzero((n_positives > 0) & (n_positives < n_items)), self.positives),
            (np.flatnonzero(n_positives == n_items), csr_matrix((n_users, n_items), dtype=bool)),
        ):
            for batch, ranked in rank_in_batches(
                scorer=scorer,
                users=users,
                seen=seen,
                k=min(self.ranks[1], n_items),
                candidates=np.ones(n_items, bool),
                batch_size=BATCH_SIZE,
            ):
                lists[batch] = self._at_ranks(ranked)
        self.lists.assign(lists)

    def _at_ranks(self, ranked: np.ndarray) -> np.ndarray:
        """The part of the ranked item rows [n, k], padded with -1, that `mine` keeps."""
        first, n_ranked = self.ranks[0], np.count_nonzero(ranked >= 0, axis=1)
        begin = np.where(n_ranked > first, first, 0)
        offsets = np.arange(self.lists.shape[1]) % (n_ranked - begin)[:, None]
        return np.take_along_axis(ranked, begin[:, None] + offsets, axis=1)

    def draw(self, user_rows: tf.Tensor, n: int, seed: tf.Tensor) -> tf.Tensor:
        """Draw negatives for a batch.

        Parameters
        ----------
        user_rows : tf.Tensor of int, shape (m,)
        n : int
            Number of negatives per user row.
        seed : tf.Tensor of int32, shape (2,)

        Returns
        -------
        tf.Tensor of int32, shape (m, n)
            Item rows.
        """
        size = [tf.size(user_rows), n]
        seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 3))
        column = tf.random.stateless_uniform(size, seeds[0], 0, self.lists.shape[1], tf.int32)
        mined = tf.gather(tf.gather(self.lists, user_rows), column, batch_dims=1)
        uniform = sample_uniform(size[0] * n, self.data.n_items, seeds[1])
        is_mined = tf.random.stateless_uniform(size, seeds[2]) < self.share
        return tf.where(is_mined, mined, tf.reshape(uniform, size))


class MineEveryEpoch(tf.keras.callbacks.Callback):
    """Mine at the beginning of every epoch, except an epoch that is being resumed.

    Parameters
    ----------
    negatives : MinedNegatives
    progress : Progress
    """

    def __init__(self, negatives: MinedNegatives, progress: Progress):
        super().__init__()
        self.negatives, self.progress = negatives, progress

    def on_epoch_begin(self, epoch, logs=None):
        if not self.progress.steps:
            self.negatives.mine(self.model)
