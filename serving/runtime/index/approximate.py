"""An approximate index: faster than the exact one, and smaller if it stores codes."""

from __future__ import annotations

from typing import Any, ClassVar

import faiss
import numpy as np

from .item_index import order_ties
from .kinds import one_thread, search

BLOCK = 1 << 14
"""Number of vectors that are decoded at a time: 4 MB at 64 dimensions."""
AT_ONCE = 16
"""Number of queries per call of FAISS. From 20 on, it computes the products with the centres in
another order, so that a row could get another answer in a batch than alone."""
EQUAL_LENGTHS = 1e-3
"""Lengths of vectors that differ by no more than this fraction count as equal."""


class StoredVectors:
    """The vectors of an approximate index, decoded where they are read.

    It can be indexed and taken from like an array float32 [n, D]. The vectors of `hnsw` and
    `ivf_flat` are the items' own; those of `ivf_sq8` and `ivf_pq` are rounded.

    Parameters
    ----------
    id_map : faiss.IndexIDMap
        Owns the index.
    index : faiss.Index
        With a way from positions to vectors.
    lengths : tuple of float
        The smallest and the largest length of the items' own vectors.
    """

    def __init__(self, id_map: Any, index: Any, lengths: tuple[float, float]) -> None:
        self.id_map, self.index = id_map, index
        self.shape = (int(index.ntotal), int(index.d))
        self.have_equal_lengths = lengths[1] - lengths[0] <= EQUAL_LENGTHS * lengths[1]
        self.length = lengths[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None) -> np.ndarray:
        """Decode all vectors."""
        return self[:].astype(dtype or np.float32, copy=False)

    def __getitem__(self, items: Any) -> np.ndarray:
        """Return the vectors of a slice, of positions, or of a mask bool [n]."""
        if isinstance(items, np.ndarray) and items.dtype == bool:
            items = np.flatnonzero(items)
        elif isinstance(items, slice):
            items = np.arange(*items.indices(len(self)))
        return self.take(items)

    def take(self, items: Any, axis: int = 0) -> np.ndarray:
        """Return the vectors float32 [..., D] of positions, int [...]."""
        items = np.asarray(items, np.int64)
        if not items.size:
            return np.zeros((*items.shape, self.shape[1]), np.float32)
        with one_thread():
            found = self.index.reconstruct_batch(items.ravel())
        return found.reshape(*items.shape, self.shape[1])

    def inverse_lengths(self) -> np.ndarray:
        """Return 1 / length of each vector, float32 [n]; 0 for a vector of length 0.

        Equal lengths take no memory. Others are computed, which decodes all vectors.
        """
        if self.have_equal_lengths and self.length > 0:
            return np.broadcast_to(np.float32(1 / self.length), len(self))
        lengths = np.empty(len(self), np.float32)
        for first in range(0, len(self), BLOCK):
            part = slice(first, first + BLOCK)
            lengths[part] = np.linalg.norm(self[part], axis=1)
        return np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)


class _Ids:
    """The ids of an IndexIDMap as an array, which keeps the index alive."""

    def __init__(self, id_map: Any) -> None:
        self.id_map = id_map
        view = faiss.rev_swig_ptr(id_map.id_map.data(), id_map.ntotal)
        self.__array_interface__ = view.__array_interface__


class ApproximateIndex:
    """A loaded approximate index.

    Parameters
    ----------
    id_map : faiss.IndexIDMap
        An index whose ids are codes of items, ascending.
    metadata : dict of str to Any
        What `write_index` wrote.

    Attributes
    ----------
    item_ids : ndarray of int64, shape (n,)
        Code of the item at each position, a view of FAISS's memory.
    index : faiss.Index
        Answers with positions.
    vectors : StoredVectors
    """

    is_exact: ClassVar[bool] = False

    def __init__(self, id_map: Any, metadata: dict[str, Any]) -> None:
        self.id_map, self.metadata = id_map, metadata
        self.item_ids = np.asarray(_Ids(id_map))
        self.index = index = faiss.downcast_index(id_map.index)
        self.effort, self.measured_k = metadata["effort"], metadata["recall"]["k"]
        if isinstance(index, faiss.IndexIVF):
            index.make_direct_map()  # from a position to its place in the lists
        self.vectors = StoredVectors(id_map, index, tuple(metadata["lengths"]))

    def search(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find about the k items with the highest inner products.

        For more items than the recall was measured at, the effort grows in proportion.

        Parameters
        ----------
        vectors : ndarray of float32, shape (n, D)
            Query vectors.
        k : int
            Number of items per row.

        Returns
        -------
        scores : ndarray of float32, shape (n, k)
            Descending; equal scores are ordered by item id. -inf where fewer items were found.
        positions : ndarray of int64, shape (n, k)
            Positions in `item_ids`; -1 where fewer items were found.
        """
        vectors = np.ascontiguousarray(vectors, np.float32)
        effort = -(-self.effort * max(k, self.measured_k) // self.measured_k)
        scores, positions = search(self.index, vectors[:AT_ONCE], k, effort)
        for first in range(AT_ONCE, len(vectors), AT_ONCE):
            part = search(self.index, vectors[first : first + AT_ONCE], k, effort)
            scores = np.concatenate([scores, part[0]])
            positions = np.concatenate([positions, part[1]])
        missing = positions < 0
        if missing.any():
            scores[missing] = -np.inf
        return order_ties(scores, positions)


def inverse_lengths(vectors: np.ndarray | StoredVectors) -> np.ndarray:
    """Return 1 / length of each vector, float32 [n]; 0 for a vector of length 0."""
    if isinstance(vectors, StoredVectors):
        return vectors.inverse_lengths()
    lengths = np.linalg.norm(vectors, axis=1)
    return np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
