"""Hard negatives that are mined: of each user the items that the towers themselves rank highly.

Between epochs all items are ranked by an index of their vectors, as they will be when served, and
in the next epoch negatives come from those ranks (ANCE: Xiong et al., ICLR 2021; of ranks that are
not at the very top, mixed with random ones: Huang et al., "Embedding-based Retrieval in Facebook
Search", KDD 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from scipy.sparse import csr_matrix

from twotower.models.evaluation.metrics import binary, rankings
from twotower.models.objective.sampling import sample_uniform
from twotower.models.two_tower import TowerScorer

if TYPE_CHECKING:
    import merlin.models.tf as mm

    from twotower.models.training.callbacks import Progress

USERS_AT_ONCE = 1024


class MinedNegatives(tf.Module):
    """For each user the items of some ranks, from which negatives are drawn.

    Parameters
    ----------
    users, items : the encoded tables
    user_rows, item_rows : int [n], the train positives, of which none is a mined negative
    ranks : the first (from 0) and the last rank (not included), among items that are no positives
    share : fraction of mined negatives, above 0 to 1; the others are uniform
    """

    def __init__(
        self,
        users: Mapping[str, np.ndarray],
        items: Mapping[str, np.ndarray],
        user_rows: np.ndarray,
        item_rows: np.ndarray,
        ranks: tuple[int, int],
        share: float,
    ):
        super().__init__()
        self.users, self.items, self.ranks, self.share = users, items, ranks, share
        n_users, self.n_items = (len(next(iter(table.values()))) for table in (users, items))
        ones = np.ones(len(user_rows), bool)
        self.known = binary(csr_matrix((ones, (user_rows, item_rows)), (n_users, self.n_items)))
        width = min(ranks[1], self.n_items) - min(ranks[0], self.n_items - 1)
        # A variable, so that it is in checkpoints: a resumed epoch keeps its negatives.
        self.lists = tf.Variable(tf.zeros([n_users, width], tf.int32), trainable=False)

    def mine(self, model: mm.RetrievalModelV2) -> None:
        """Rank all items for all users by the towers as they are, and keep the items' rows.

        If a user has fewer items at these ranks, they are repeated; if there are none, items of
        better ranks are taken. For a user whose positives are all items, these are ranked instead.
        Users without positives need no list.
        """
        scorer = TowerScorer.of(model, self.users, self.items)
        lists, taken = np.zeros(self.lists.shape, np.int32), np.diff(self.known.indptr)
        candidates = np.ones(self.n_items, bool)
        k = min(self.ranks[1], self.n_items)
        for users, known in (
            (np.flatnonzero((taken > 0) & (taken < self.n_items)), self.known),
            (np.flatnonzero(taken == self.n_items), csr_matrix(self.known.shape, dtype=bool)),
        ):
            for batch, ranked in rankings(scorer, users, known, k, candidates, USERS_AT_ONCE):
                lists[batch] = self._at_ranks(ranked)
        self.lists.assign(lists)

    def _at_ranks(self, ranked: np.ndarray) -> np.ndarray:
        """What `mine` keeps of the item rows `ranked` [n, k], the best first, -1 for none."""
        first, number = self.ranks[0], np.count_nonzero(ranked >= 0, axis=1)
        begin = np.where(number > first, first, 0)
        places = np.arange(self.lists.shape[1]) % (number - begin)[:, None]
        return np.take_along_axis(ranked, begin[:, None] + places, axis=1)

    def draw(self, user_rows: tf.Tensor, n: int, seed: tf.Tensor) -> tf.Tensor:
        """n item rows for each of the users int [m], by a seed int32 [2]: int32 [m, n]."""
        size = [tf.size(user_rows), n]
        seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 3))
        place = tf.random.stateless_uniform(size, seeds[0], 0, self.lists.shape[1], tf.int32)
        mined = tf.gather(tf.gather(self.lists, user_rows), place, batch_dims=1)
        uniform = sample_uniform(size[0] * n, self.n_items, seeds[1])
        is_mined = tf.random.stateless_uniform(size, seeds[2]) < self.share
        return tf.where(is_mined, mined, tf.reshape(uniform, size))


class MineEveryEpoch(tf.keras.callbacks.Callback):
    """Mines as an epoch begins, not in the middle of one that is gone on with."""

    def __init__(self, negatives: MinedNegatives, progress: Progress):
        super().__init__()
        self.negatives, self.progress = negatives, progress

    def on_epoch_begin(self, epoch, logs=None):
        if not self.progress.steps:
            self.negatives.mine(self.model)
