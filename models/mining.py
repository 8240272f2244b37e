"""Hard negatives that are mined: of each user the items that the towers themselves rank highly.

Between epochs all items are ranked by an index of their vectors, as they will be when served, and
in the next epoch negatives come from those ranks (ANCE: Xiong et al., ICLR 2021; of ranks that are
not at the very top, mixed with random ones: Huang et al., "Embedding-based Retrieval in Facebook
Search", KDD 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import faiss
import numpy as np
import tensorflow as tf

from models.negatives import known_pairs, sample_uniform
from models.two_tower import embed

if TYPE_CHECKING:
    import merlin.models.tf as mm

    from models.callbacks import Progress

USERS_AT_ONCE = 1024


class MinedNegatives(tf.Module):
    """For each user the items of some ranks, from which negatives are drawn.

    Parameters
    ----------
    users, items : the encoded tables
    user_rows, item_rows : int [n], the train positives, of which none is a mined negative
    ranks : the first (from 0) and the last (not included), of the items that are no positives
    share : of the negatives, from above 0 to 1, that is mined; the others are uniform
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
        self.known = known_pairs(user_rows, item_rows, self.n_items)
        self.taken = np.bincount(self.known // self.n_items, minlength=n_users)
        width = min(ranks[1], self.n_items) - min(ranks[0], self.n_items - 1)
        # In a checkpoint: an epoch that is gone on with has the lists that it began with.
        self.lists = tf.Variable(tf.zeros([n_users, width], tf.int32), trainable=False)

    def mine(self, model: mm.RetrievalModelV2) -> None:
        """Rank all items for all users by the towers as they are, and keep the items' rows.

        A user with fewer items at these ranks has them several times over, and one with none, who
        has taken nearly everything, those before. Users without positives need none.
        """
        vectors = embed(model.candidate_encoder, self.items)
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        queries, lists = embed(model.query_encoder, self.users), np.zeros(self.lists.shape, int)
        # By how much they have taken: no search is for more items than its users need.
        order = np.argsort(self.taken, kind="stable")
        order = order[np.searchsorted(self.taken[order], 1) :]  # others are in no batch
        for start in range(0, len(order), USERS_AT_ONCE):
            users = order[start : start + USERS_AT_ONCE]
            k = min(int(self.ranks[1] + self.taken[users[-1]]), self.n_items)
            lists[users] = self._others(users, index.search(queries[users], k)[1])
        self.lists.assign(lists.astype(np.int32))

    def _others(self, users: np.ndarray, ranked: np.ndarray) -> np.ndarray:
        """What `mine` keeps of the item rows [u, k] found for users [u], the best first."""
        pairs = users[:, None] * self.n_items + ranked
        place = np.minimum(np.searchsorted(self.known, pairs), len(self.known) - 1)
        known = self.known[place] == pairs
        others = np.take_along_axis(ranked, np.argsort(known, axis=1, kind="stable"), axis=1)
        (first, last), number = self.ranks, np.count_nonzero(~known, axis=1)
        enough = number > first
        begin = np.where(enough, first, 0)
        end = np.where(number > 0, np.minimum(number, last), ranked.shape[1])
        places = np.arange(self.lists.shape[1]) % (end - begin)[:, None]
        return np.take_along_axis(others, begin[:, None] + places, axis=1)

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
