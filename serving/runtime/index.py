"""The item index: a flat FAISS index of inner products with item codes, bound to its towers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from .errors import ServingError

INDEX_FILE = "index.faiss"
METADATA_FILE = "index.json"


@dataclass(frozen=True)
class ItemIndex:
    """A loaded index.

    Attributes
    ----------
    item_ids : ndarray of int64, shape (n,)
        Code of the item at each position, ascending.
    metadata : dict of str to Any
        Has the keys metric, dim, count, towers_sha256 and faiss.
    id_map : faiss.IndexIDMap
        The index of the vectors.
    """

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
        tied = (scores[:, 1:] == scores[:, :-1]).any(axis=1)
        if tied.any():  # FAISS returns ties in any order
            order = np.lexsort((positions[tied], -scores[tied]))
            positions[tied] = np.take_along_axis(positions[tied], order, axis=1)
        return scores, positions


def build_index(
    item_ids: np.ndarray, vectors: np.ndarray, out: Path, towers_sha256: str
) -> dict[str, Any]:
    """Write `index.faiss` and `index.json` of the item vectors.

    Parameters
    ----------
    item_ids : ndarray of int64, shape (n,)
        Codes of the items, unique.
    vectors : ndarray of float32, shape (n, D)
        Finite.
    out : Path
        Folder; created if it does not exist.
    towers_sha256 : str
        Hash of the towers that computed the vectors.

    Returns
    -------
    dict of str to Any
        The content of `index.json`.

    Raises
    ------
    ServingError
        If ids or vectors are not as described; the message names the item.
    """
    item_ids, vectors = np.asarray(item_ids), np.asarray(vectors)
    _check(item_ids, vectors)
    # Ascending, so that positions order ties by id, and ids can be found by bisection.
    order = np.argsort(item_ids, kind="stable")
    index = faiss.IndexIDMap(faiss.IndexFlatIP(vectors.shape[1]))
    index.add_with_ids(vectors[order].astype(np.float32), item_ids[order].astype(np.int64))
    metadata = {
        "metric": "inner_product",
        "dim": int(vectors.shape[1]),
        "count": len(item_ids),
        "towers_sha256": towers_sha256,
        "faiss": faiss.__version__,
    }
    out.mkdir(parents=True, exist_ok=True)
    faiss.write_index(index, str(out / INDEX_FILE))
    (out / METADATA_FILE).write_text(json.dumps(metadata, indent=2) + "\n")
    return metadata


def load_index(folder: Path, towers_sha256: str | None = None) -> ItemIndex:
    """Read what `build_index` wrote.

    Parameters
    ----------
    folder : Path
        The folder with `index.faiss` and `index.json`.
    towers_sha256 : str, optional
        Hash of the towers that the index must be built for.

    Raises
    ------
    ServingError
        If the index cannot be read or was built for other towers.
    """
    folder = Path(folder)
    try:
        metadata = json.loads((folder / METADATA_FILE).read_text())
    except (OSError, ValueError) as error:
        raise ServingError(f"{folder / METADATA_FILE}: no index metadata ({error})") from error
    built_for = metadata["towers_sha256"]
    if towers_sha256 is not None and built_for != towers_sha256:
        raise ServingError(
            f"{folder}: the index was built from towers {built_for}, "
            f"but the towers here are {towers_sha256}; build the index again"
        )
    try:
        index = faiss.read_index(str(folder / INDEX_FILE))
    except RuntimeError as error:
        raise ServingError(f"{folder / INDEX_FILE}: FAISS cannot read it ({error})") from error
    if (index.ntotal, index.d) != (metadata["count"], metadata["dim"]):
        raise ServingError(
            f"{folder}: {INDEX_FILE} holds {index.ntotal} x {index.d}, "
            f"{METADATA_FILE} says {metadata['count']} x {metadata['dim']}"
        )
    return ItemIndex(faiss.vector_to_array(index.id_map), metadata, index)


def _check(item_ids: np.ndarray, vectors: np.ndarray) -> None:
    if item_ids.ndim != 1 or item_ids.dtype.kind not in "iu" or not len(item_ids):
        raise ServingError(
            f"item ids: expected int64 [n] with n >= 1, got {item_ids.dtype} {item_ids.shape}"
        )
    if vectors.ndim != 2 or vectors.shape[0] != len(item_ids) or not vectors.shape[1]:
        raise ServingError(
            f"item vectors: expected float32 [{len(item_ids)}, D], "
            f"got {vectors.dtype} {vectors.shape}"
        )
    values, counts = np.unique(item_ids, return_counts=True)
    if (counts > 1).any():
        raise ServingError(f"item id {values[counts > 1][0]} occurs more than once")
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise ServingError(
            f"the vector of item {item_ids[bad][0]} is not finite ({int(bad.sum())} such items); "
            "training may have diverged: train with a lower training.learning_rate"
        )
