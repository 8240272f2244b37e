"""Writing and reading an index: `index.faiss` and `index.json`, bound to the towers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from ..errors import ServingError
from .approximate import ApproximateIndex
from .item_index import ItemIndex
from .kinds import KINDS

INDEX_FILE = "index.faiss"
METADATA_FILE = "index.json"
ROWS_AT_ONCE = 1 << 16
"""Number of vectors that are read at a time: 16 MB at 64 dimensions."""
OF_APPROXIMATE = ("kind", "effort", "lists", "recall", "lengths", "file_bytes")
"""Keys of the metadata that only an approximate index has."""


def build_index(
    item_ids: np.ndarray, vectors: np.ndarray, out: Path, towers_sha256: str
) -> dict[str, Any]:
    """Write `index.faiss` and `index.json` of an exact index of the item vectors.

    Parameters
    ----------
    item_ids : ndarray of int64, shape (n,)
        Codes of the items, unique.
    vectors : ndarray of float32, shape (n, D)
        Finite. They are read in blocks, so they may be on the disk (`np.load` with `mmap_mode`).
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
    check_items(item_ids, vectors)
    # Ascending, so that positions order ties by id, and ids can be found by bisection.
    order = np.argsort(item_ids, kind="stable")
    index = _with_ids(_flat_index(vectors, order), item_ids[order])
    metadata = _metadata(len(item_ids), vectors.shape[1], towers_sha256)
    out.mkdir(parents=True, exist_ok=True)
    faiss.write_index(index, str(out / INDEX_FILE))
    _write_metadata(out, metadata)
    return metadata


def write_index(
    item_ids: np.ndarray,
    index: faiss.Index,
    out: Path,
    towers_sha256: str,
    measured: Mapping[str, Any],
) -> dict[str, Any]:
    """Write `index.faiss` and `index.json` of an approximate index.

    Parameters
    ----------
    item_ids : ndarray of int64, shape (n,)
        Codes of the items, ascending and unique.
    index : faiss.Index
        Holds the vector of item `item_ids[i]` as number i.
    out : Path
        Folder; created if it does not exist.
    towers_sha256 : str
        Hash of the towers that computed the vectors.
    measured : mapping of str to Any
        What becomes part of the metadata: kind, effort, lists, recall, lengths and others.

    Returns
    -------
    dict of str to Any
        The content of `index.json`.

    Raises
    ------
    ServingError
        If the number of ids differs from that of the vectors.
    """
    if index.ntotal != len(item_ids):
        raise ServingError(f"the index has {index.ntotal} vectors, but there are {len(item_ids)}")
    out.mkdir(parents=True, exist_ok=True)
    faiss.write_index(_with_ids(index, item_ids), str(out / INDEX_FILE))
    file_bytes = (out / INDEX_FILE).stat().st_size
    places = 8 * index.ntotal if isinstance(index, faiss.IndexIVF) else 0
    metadata = {
        **_metadata(index.ntotal, index.d, towers_sha256),
        **measured,
        "file_bytes": file_bytes,
        "bytes": file_bytes + places,  # what it takes when it is loaded
    }
    _write_metadata(out, metadata)
    return metadata


def load_index(folder: Path, towers_sha256: str | None = None) -> ItemIndex | ApproximateIndex:
    """Read what `build_index` or `write_index` wrote.

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
    if "kind" in metadata:
        _check_metadata(folder, metadata)
    try:
        index = faiss.read_index(str(folder / INDEX_FILE))
    except RuntimeError as error:
        raise ServingError(f"{folder / INDEX_FILE}: FAISS cannot read it ({error})") from error
    if (index.ntotal, index.d) != (metadata["count"], metadata["dim"]):
        raise ServingError(
            f"{folder}: {INDEX_FILE} holds {index.ntotal} x {index.d}, "
            f"{METADATA_FILE} says {metadata['count']} x {metadata['dim']}"
        )
    if "kind" in metadata:
        _check_kind(folder, metadata, faiss.downcast_index(index.index))
        return ApproximateIndex(index, metadata)
    return ItemIndex(faiss.vector_to_array(index.id_map), metadata, index)


def read_in_blocks(vectors: np.ndarray, order: np.ndarray) -> Any:
    """Yield the vectors float32 [m, D] of positions int64 [n], block by block."""
    for first in range(0, len(order), ROWS_AT_ONCE):
        rows = order[first : first + ROWS_AT_ONCE]
        yield np.ascontiguousarray(vectors[rows], np.float32)


def _flat_index(vectors: np.ndarray, order: np.ndarray) -> Any:
    """Return a flat index of the vectors at positions `order`.

    The memory is allocated once. `add` would let it grow, which needs up to three times as much.
    """
    index = faiss.IndexFlatIP(vectors.shape[1])
    size = len(order) * vectors.shape[1]
    index.codes.resize(4 * size)
    index.ntotal = len(order)
    values = faiss.rev_swig_ptr(index.get_xb(), size).reshape(len(order), -1)
    first = 0
    for block in read_in_blocks(vectors, order):
        values[first : first + len(block)] = block
        first += len(block)
    return index


def _with_ids(index: Any, item_ids: np.ndarray) -> Any:
    """Return an IndexIDMap of an index that is already filled."""
    count, index.ntotal = index.ntotal, 0  # IndexIDMap wants to do the filling
    with_ids = faiss.IndexIDMap(index)
    with_ids.ntotal = index.ntotal = count
    faiss.copy_array_to_vector(np.asarray(item_ids, np.int64), with_ids.id_map)
    return with_ids


def _check_kind(folder: Path, metadata: Mapping[str, Any], index: Any) -> None:
    """Raise ServingError if an index is of another kind than its metadata say."""
    lists = index.nlist if isinstance(index, faiss.IndexIVF) else None
    classes = {
        "hnsw": faiss.IndexHNSWFlat,
        "ivf_flat": faiss.IndexIVFFlat,
        "ivf_sq8": faiss.IndexIVFScalarQuantizer,
        "ivf_pq": faiss.IndexIVFPQ,
    }
    if type(index) is not classes[metadata["kind"]] or lists != metadata["lists"]:
        raise ServingError(
            f"{folder}: {INDEX_FILE} holds a {type(index).__name__} of {lists} lists, "
            f"{METADATA_FILE} says {metadata['kind']} of {metadata['lists']}; export the version "
            "again"
        )


def _check_metadata(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Raise ServingError if the metadata of an approximate index is not that of its file."""
    missing = [key for key in OF_APPROXIMATE if key not in metadata]
    if missing or metadata["kind"] not in KINDS:
        what = f"has no {missing[0]}" if missing else f"kind {metadata['kind']} is unknown"
        raise ServingError(f"{folder / METADATA_FILE}: {what}; export the version again")
    path = folder / INDEX_FILE
    size = path.stat().st_size if path.is_file() else 0
    # Checked here because FAISS may crash on a damaged file of these kinds.
    if size != metadata["file_bytes"]:
        raise ServingError(
            f"{path}: has {size} bytes, {METADATA_FILE} says {metadata['file_bytes']}; it is "
            "damaged or of another index: export the version again"
        )


def _metadata(count: int, dim: int, towers_sha256: str) -> dict[str, Any]:
    return {
        "metric": "inner_product",
        "dim": int(dim),
        "count": int(count),
        "towers_sha256": towers_sha256,
        "faiss": faiss.__version__,
    }


def _write_metadata(out: Path, metadata: Mapping[str, Any]) -> None:
    (out / METADATA_FILE).write_text(json.dumps(metadata, indent=2) + "\n")


def check_items(item_ids: np.ndarray, vectors: np.ndarray) -> None:
    """Raise ServingError if ids or vectors are not as `build_index` describes them."""
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
    bad = np.concatenate(
        [
            ~np.isfinite(vectors[first : first + ROWS_AT_ONCE]).all(axis=1)
            for first in range(0, len(vectors), ROWS_AT_ONCE)
        ]
    )
    if bad.any():
        raise ServingError(
            f"the vector of item {item_ids[bad][0]} is not finite ({int(bad.sum())} such items); "
            "training may have diverged: train with a lower training.learning_rate"
        )
