"""The exact index: all vectors as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import faiss
import numpy as np


@dataclass(frozen=True)
class ItemIndex:
    """A loaded exact index.

    Attributes
    ----------
    item_ids : ndarray of int64, shape (n,)
        Code of the item at each position, ascending.
    metadata : dict of str to Any
        Has the keys metric, dim, count, towers_sha256 and faiss.
    id_map : faiss.IndexIDMap
        The index of the vectors.
    """

    is_exact: ClassVar[bool] = True
    item_ids: np.ndarray
    metadata: dict[str, Any]
    id_map: Any

    @property
    def vectors(self) -> np.ndarray:
        """The vectors float32 [n, D], a view of FAISS's memory: valid while the index exists."""
        flat = faiss.downcast_index(self.id_map.index)
        size = flat.ntotal * flat.d
        return faiss.rev_swig_ptr(flat.get_xb(), size).reshape(flat.ntotal, flat.d)

    def search(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the k items with the highest inner products.

        Parameters
        ----------
        vectors : ndarray of float32, shape (n, D)
            Query vectors.
        k : int
            Number of items per row.

        Returns
        -------
        scores : ndarray of float32, shape (n, k)
            Descending; equal scores are ordered by item id.
        positions : ndarray of int64, shape (n, k)
            Positions in `item_ids`.
        """
        scores, positions = self.id_map.index.search(np.ascontiguousarray(vectors, np.float32), k)
        return order_ties(scores, positions)


def order_ties(scores: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order equal scores by position, because FAISS returns them in any order.

    Both have the shape [n, k], and the scores are descending. `positions` is changed.
    """
    tied = (scores[:, 1:] == scores[:, :-1]).any(axis=1)
    if tied.any():
        order = np.lexsort((positions[tied], -scores[tied]))
        positions[tied] = np.take_along_axis(positions[tied], order, axis=1)
    return scores, positions
