"""The kinds of approximate indexes, and what differs between versions of FAISS.

FAISS-GPU trains the k-means of the IVF kinds if the build has it and there is a GPU. This was never
run on a GPU. The index itself is always searched on the CPU, whose answers the recall is measured
with.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

FLAT, HNSW, IVF_FLAT, IVF_SQ8, IVF_PQ = "flat", "hnsw", "ivf_flat", "ivf_sq8", "ivf_pq"
KINDS = (HNSW, IVF_FLAT, IVF_SQ8, IVF_PQ)
"""The approximate ones."""
NEIGHBOURS = 32
"""Links of each item in HNSW's graph."""
EF_CONSTRUCTION = 80
POINTS_PER_LIST = 40
"""Training vectors of each list. FAISS advises at least 39; more take longer and change little."""
ITERATIONS = 10
"""Iterations of k-means."""
MIN_LISTS, MAX_LISTS = 16, 1 << 16
SEED = 1234
MEASURED_K = 100
"""Number of items per query at which the recall is measured."""
HAS_PARAMETERS = hasattr(faiss, "SearchParametersIVF")
"""Whether FAISS takes the effort of a search as an argument. 1.7.2 has only an attribute of the
index, which is set and read under a lock there."""
GRAPH_HAS_PARAMETERS = HAS_PARAMETERS and not faiss.__version__.startswith("1.7.")
"""The same for HNSW: 1.7.3 takes the argument, but gives other answers than with the attribute."""
_ATTRIBUTE = threading.Lock()


def lists_of(count: int) -> int:
    """Return the number of lists of an IVF index: 4 times the square root, as FAISS advises.

    >>> lists_of(568_847), lists_of(3_078_306)
    (3016, 7018)
    """
    return int(min(MAX_LISTS, max(MIN_LISTS, 4 * max(count, 1) ** 0.5)))


def efforts(kind: str, count: int) -> list[int]:
    """Return the efforts worth trying, ascending: numbers of probed lists, or HNSW's efSearch."""
    # A search of HNSW for k items has an efSearch of k at least. Fewer than measured with would
    # find a smaller part of fewer items.
    first, last = (MEASURED_K, 4096) if kind == HNSW else (1, lists_of(count))
    steps = sorted({int(first * 2 ** (half / 2)) for half in range(25)})
    return [*(step for step in steps if step < last), last]


def bytes_per_item(kind: str, dim: int) -> float:
    """Return the memory of an item in bytes: its vector or code, ids, and links or place."""
    ids = 8  # item_ids
    in_lists = 8 + 8  # the position in its list, and where in the lists a position is
    return {
        FLAT: 4 * dim + ids,
        HNSW: 4 * dim + ids + 4 * 2 * NEIGHBOURS * 1.07 + 12,
        IVF_FLAT: 4 * dim + ids + in_lists,
        IVF_SQ8: dim + ids + in_lists,
        IVF_PQ: _codes(dim) + ids + in_lists,
    }[kind]


def estimated_bytes(kind: str, count: int, dim: int) -> int:
    """Return roughly how much memory an index takes, before it is built."""
    centroids = 0 if kind in (FLAT, HNSW) else 4 * dim * lists_of(count)
    return int(bytes_per_item(kind, dim) * count + centroids)


def _codes(dim: int) -> int:
    """Return the number of sub-vectors of IVF-PQ, a byte each: half of the dimensions or less."""
    return next(parts for parts in range(max(1, dim // 2), 0, -1) if dim % parts == 0)


def sample_size(count: int) -> int:
    """Return how many vectors `trained` takes."""
    return min(count, POINTS_PER_LIST * max(lists_of(count), 256))


def train_lists(sample: np.ndarray, count: int) -> Any:
    """Cluster vectors into the lists of an IVF index of `count` items.

    Parameters
    ----------
    sample : ndarray of float32, shape (m, D)
        Random vectors of items, `sample_size(count)` of them.
    count : int
        The number of items.

    Returns
    -------
    faiss.IndexFlatIP
        The centres.
    """
    dim, lists = sample.shape[1], min(lists_of(count), len(sample))
    clustering = faiss.Clustering(dim, lists)
    clustering.niter, clustering.seed, clustering.spherical = ITERATIONS, SEED, True
    clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, POINTS_PER_LIST
    centres = faiss.IndexFlatIP(dim)
    clustering.train(np.ascontiguousarray(sample, np.float32), _on_gpu(centres))
    centres.reset()
    centres.add(faiss.vector_to_array(clustering.centroids).reshape(lists, dim))
    return centres


def _on_gpu(index: Any) -> Any:
    """Return the index on the first GPU, if the build of FAISS and the machine have one."""
    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        return index
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)


def new_index(kind: str, sample: np.ndarray, centres: Any) -> Any:
    """Return an empty trained index.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    sample : ndarray of float32, shape (m, D)
        Vectors that the codes are trained on.
    centres : faiss.IndexFlatIP or None
        What `train_lists` returned; None for HNSW.
    """
    dim, metric = sample.shape[1], faiss.METRIC_INNER_PRODUCT
    if kind == HNSW:
        index = faiss.IndexHNSWFlat(dim, NEIGHBOURS, metric)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        return index
    lists = centres.ntotal
    if kind == IVF_FLAT:
        index = faiss.IndexIVFFlat(centres, dim, lists, metric)
    elif kind == IVF_SQ8:
        bits = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(centres, dim, lists, bits, metric)
    else:
        index = faiss.IndexIVFPQ(centres, dim, lists, _codes(dim), 8, metric)
        index.pq.cp.min_points_per_centroid, index.pq.cp.niter = 1, ITERATIONS
    index.own_fields = False
    index.lists_of = centres  # Python must keep the centres as long as the index
    index.train(np.ascontiguousarray(sample, np.float32))
    return index


def search(index: Any, vectors: np.ndarray, k: int, effort: int) -> tuple[np.ndarray, np.ndarray]:
    """Search an approximate index with an effort, on one thread.

    Returns
    -------
    scores : ndarray of float32, shape (n, k)
        Descending; with fewer items found, FAISS's lowest number.
    positions : ndarray of int64, shape (n, k)
        -1 where fewer items were found.
    """
    is_graph = hasattr(index, "hnsw")
    effort = max(effort, k) if is_graph else min(effort, index.nlist)
    with one_thread():
        if GRAPH_HAS_PARAMETERS if is_graph else HAS_PARAMETERS:
            if is_graph:
                parameters = faiss.SearchParametersHNSW(efSearch=effort)
            else:
                parameters = faiss.SearchParametersIVF(nprobe=effort)
            return index.search(vectors, k, params=parameters)
        with _ATTRIBUTE:
            if is_graph:
                index.hnsw.efSearch = effort
            else:
                index.nprobe = effort
            return index.search(vectors, k)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Have FAISS use one thread for what this thread calls in the block.

    More of them wait for each other longer than a search takes.
    """
    before = faiss.omp_get_max_threads()
    if before == 1:
        yield
        return
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
