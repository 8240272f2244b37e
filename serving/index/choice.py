"""Chooses the fastest index that reaches a recall and fits in memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from twotower.serving.index.recall import (
    TIMED_QUERIES,
    Search,
    exact_answers,
    exact_search,
    median_ms,
    recall,
)
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.index import build_index, write_index
from twotower.serving.runtime.index.files import check_items, read_in_blocks
from twotower.serving.runtime.index.kinds import (
    FLAT,
    HNSW,
    IVF_FLAT,
    IVF_PQ,
    IVF_SQ8,
    MEASURED_K,
    SEED,
    efforts,
    estimated_bytes,
    new_index,
    sample_size,
    search,
    train_lists,
)

AUTO = "auto"
MAX_EXACT = 100_000 * 64
"""Largest number of floats that `auto` searches exactly: it takes about a millisecond."""
MAX_HNSW = 250_000
"""Largest catalogue for which `auto` tries HNSW, whose build takes minutes beyond."""
MIN_ITEMS = 1_000
"""Smallest catalogue for an approximate index: fewer items do not fill its lists."""
QUERIES = 1_000
"""Number of query vectors; half of them choose the effort, half measure the recall."""
MIN_QUERIES = 20
MARGIN = 0.1
"""The effort is chosen for a recall closer to 1 by this fraction, so that other queries reach the
wanted one."""
Report = Callable[..., None]
"""Called with (done, total, phase, detail), as `pipelines.console.stage` gives it."""


@dataclass(frozen=True)
class Wanted:
    """What an index must be like.

    Attributes
    ----------
    kind : str
        auto, flat, hnsw, ivf_flat, ivf_sq8 or ivf_pq.
    recall : float
        Smallest recall at `MEASURED_K` items.
    memory : int or None
        Largest memory in bytes.
    """

    kind: str = FLAT
    recall: float = 0.95
    memory: int | None = None


@dataclass
class Trial:
    """An index that was tried.

    Attributes
    ----------
    kind : str
    effort : int or None
        Number of probed lists or efSearch; None for an exact index.
    lists : int or None
        Number of lists; None without lists.
    recall : float
        On the queries that did not choose the effort.
    ms : float
        Median time of a query on one thread, in milliseconds.
    bytes : int
        Memory; an estimate for one that was not built.
    seconds : float
        To train and fill the index and to choose the effort.
    refused : str
        Why it is not chosen; empty if it could be.
    index : faiss.Index or None
        The index, while it may be chosen; None for an exact one.
    flat_ms : float
        As `ms`, of the exact search that was timed beside it.
    """

    kind: str
    effort: int | None = None
    lists: int | None = None
    recall: float = 1.0
    ms: float = float("nan")
    bytes: int = 0
    seconds: float = 0.0
    refused: str = ""
    index: Any = field(default=None, repr=False)
    flat_ms: float = float("nan")

    @property
    def parameters(self) -> str:
        """What was built and how it is searched, for people."""
        if self.effort is None:
            return ""
        if self.lists is None:
            return f"efSearch {self.effort}"
        return f"{self.lists} lists, {self.effort} probed"


@dataclass(frozen=True)
class Choice:
    """The indexes that were tried, and the chosen one.

    Attributes
    ----------
    wanted : Wanted
    trials : list of Trial
        The exact index first.
    chosen : Trial or None
        None if no index is as wanted.
    queries : int
        Number of queries that measured the recall; 0 if nothing was measured.
    """

    wanted: Wanted
    trials: Sequence[Trial]
    chosen: Trial | None
    queries: int = 0

    def require(self) -> Trial:
        """Return the chosen index.

        Raises
        ------
        ServingError
            If there is none; the message says what was measured and what to do.
        """
        if self.chosen is not None:
            return self.chosen
        limit = self.wanted.memory
        size = "" if limit is None else f" within serving.index.memory = {limit / 1e6:,.0f} MB"
        tried = "; ".join(f"{each.kind}: {each.refused}" for each in self.trials if each.refused)
        raise ServingError(
            f"no index has serving.index.recall = {self.wanted.recall:g} at {MEASURED_K} items"
            f"{size} ({tried}). Lower the recall, raise the memory, or set serving.index.kind to "
            f"another kind or to auto; `twotower index` shows what each kind reaches"
        )


def choose_index(
    vectors: np.ndarray, queries: np.ndarray, wanted: Wanted, report: Report
) -> Choice:
    """Build the indexes that could be as wanted, measure them, and choose the fastest.

    Parameters
    ----------
    vectors : ndarray of float32, shape (n, D)
        The items' vectors, by ascending item id. A memory map is read in blocks.
    queries : ndarray of float32, shape (m, D)
        Query vectors of users, in random order. The first half chooses the effort of each index,
        the second half measures its recall.
    wanted : Wanted
    report : callable

    Returns
    -------
    Choice

    Raises
    ------
    ServingError
        If there are too few items or queries for an approximate index.
    """
    count, dim = vectors.shape
    flat = Trial(FLAT, bytes=estimated_bytes(FLAT, count, dim))
    kinds = approximate_kinds(wanted, count, dim)
    flat.refused = _too_large(flat, wanted)
    if not kinds:
        return Choice(wanted, [flat], None if flat.refused else flat)
    if wanted.kind != AUTO:
        flat.refused = "not asked for"
    _check_sizes(count, queries)
    queries = np.ascontiguousarray(queries[:QUERIES], np.float32)
    report(0, count, "exact answers")
    exact = exact_answers(
        vectors, queries, min(MEASURED_K, count), partial(report, phase="exact answers")
    )
    builder = _Builder(vectors, report)
    trials, chosen = [flat], None if flat.refused else flat
    for kind in kinds:
        trial = Trial(kind, bytes=estimated_bytes(kind, count, dim))
        trial.refused = _too_large(trial, wanted)
        trials.append(trial)
        if trial.refused:
            continue
        started = time.perf_counter()
        trial.index, trial.lists = builder.build(kind)
        report(phase=f"{kind}: measure")
        _measure(trial, queries, exact, wanted)
        trial.seconds = time.perf_counter() - started
        timed: dict[str, Search] = {
            FLAT: exact_search(vectors),
            kind: partial(_search, trial, MEASURED_K),
        }
        found = median_ms(timed, queries[-TIMED_QUERIES:])
        trial.ms, trial.flat_ms = found[kind], found[FLAT]
        if math.isnan(flat.ms):
            flat.ms = found[FLAT]
        if trial.refused or (chosen is not None and chosen.ms <= trial.ms):
            trial.index = None  # frees the memory
        else:
            if chosen is not None:
                chosen.index = None
            chosen = trial
    return Choice(wanted, trials, chosen, len(queries) - len(queries) // 2)


def write_choice(
    choice: Choice, item_ids: np.ndarray, vectors: np.ndarray, out: Path, towers_sha256: str
) -> dict[str, Any]:
    """Write the chosen index.

    Parameters
    ----------
    choice : Choice
    item_ids : ndarray of int64, shape (n,)
        Codes of the items, ascending.
    vectors : ndarray of float32, shape (n, D)
        What `choose_index` was given.
    out : Path
        Folder; created if it does not exist.
    towers_sha256 : str
        Hash of the towers that computed the vectors.

    Returns
    -------
    dict of str to Any
        The metadata, see `serving.runtime.index.load_index`.

    Raises
    ------
    ServingError
        If no index is as wanted, or an id or vector is wrong.
    """
    trial = choice.require()
    if trial.index is None:
        return build_index(item_ids, vectors, out, towers_sha256)
    check_items(item_ids, vectors)
    measured = {
        "kind": trial.kind,
        "lists": trial.lists,
        "effort": trial.effort,
        "recall": {
            "k": min(MEASURED_K, len(item_ids)),
            "value": round(trial.recall, 4),
            "wanted": choice.wanted.recall,
            "queries": choice.queries,
        },
        "p50_ms": {trial.kind: round(trial.ms, 4), FLAT: round(trial.flat_ms, 4)},
        "lengths": _lengths(vectors),
    }
    return write_index(item_ids, trial.index, out, towers_sha256, measured)


def approximate_kinds(wanted: Wanted, count: int, dim: int) -> list[str]:
    """Return the approximate kinds to try; none if the exact index is chosen at once."""
    is_small = count * dim <= MAX_EXACT and (
        wanted.memory is None or estimated_bytes(FLAT, count, dim) <= wanted.memory
    )
    if wanted.kind == FLAT or (wanted.kind == AUTO and is_small):
        return []
    if wanted.kind != AUTO:
        return [wanted.kind]
    # Product quantisation loses too much recall to be tried where other codes fit in memory.
    is_scarce = wanted.memory is not None and wanted.memory < estimated_bytes(IVF_SQ8, count, dim)
    hnsw = [HNSW] if count <= MAX_HNSW else []
    return [IVF_SQ8, IVF_FLAT, *hnsw, *([IVF_PQ] if is_scarce else [])]


class _Builder:
    """Builds indexes of the same vectors, whose lists are clustered once.

    Parameters
    ----------
    vectors : ndarray of float32, shape (n, D)
    report : callable
    """

    def __init__(self, vectors: np.ndarray, report: Report) -> None:
        self.vectors, self.report = vectors, report
        count = len(vectors)
        draw = np.random.default_rng(SEED)
        rows = np.sort(draw.choice(count, sample_size(count), replace=False))
        self.sample = np.ascontiguousarray(vectors[rows], np.float32)

    @cached_property
    def centres(self) -> Any:
        """The centres of the lists."""
        self.report(0, len(self.vectors), f"cluster {len(self.sample):,} vectors")
        return train_lists(self.sample, len(self.vectors))

    def build(self, kind: str) -> tuple[Any, int | None]:
        """Return an index with all vectors, and the number of its lists."""
        has_lists = kind != HNSW
        index = new_index(kind, self.sample, self.centres if has_lists else None)
        done, count = 0, len(self.vectors)
        for block in read_in_blocks(self.vectors, np.arange(count)):
            index.add(block)
            done += len(block)
            self.report(done, count, f"{kind}: add the vectors")
        return index, index.nlist if has_lists else None


def _measure(trial: Trial, queries: np.ndarray, exact: np.ndarray, wanted: Wanted) -> None:
    """Choose the smallest effort that reaches the recall on one half; measure it on the other."""
    half, k = len(queries) // 2, exact.shape[1]
    aim = wanted.recall + MARGIN * (1 - wanted.recall)
    for effort in efforts(trial.kind, trial.index.ntotal):
        trial.effort = effort
        if recall(_search(trial, k, queries[:half])[1], exact[:half]) >= aim:
            break
    trial.recall = recall(_search(trial, k, queries[half:])[1], exact[half:])
    if trial.recall < wanted.recall:
        trial.refused = f"recall {trial.recall:.4f}"


def _search(trial: Trial, k: int, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    assert trial.effort is not None
    return search(trial.index, queries, min(k, trial.index.ntotal), trial.effort)


def _too_large(trial: Trial, wanted: Wanted) -> str:
    """Return why an index does not fit in memory; empty if it does."""
    if wanted.memory is None or trial.bytes <= wanted.memory:
        return ""
    return f"takes {trial.bytes / 1e6:,.0f} MB"


def _check_sizes(count: int, queries: np.ndarray) -> None:
    if count < MIN_ITEMS:
        raise ServingError(
            f"{count:,} items are too few for an approximate index, which needs {MIN_ITEMS:,}; "
            "set serving.index.kind to flat"
        )
    if len(queries) < MIN_QUERIES:
        raise ServingError(
            f"{len(queries)} users are too few to measure the recall of an index, which needs "
            f"{MIN_QUERIES}; set serving.index.kind to flat"
        )


def _lengths(vectors: np.ndarray) -> list[float]:
    """Return the smallest and the largest length of vectors."""
    blocks = read_in_blocks(vectors, np.arange(len(vectors)))
    lengths = [np.linalg.norm(block, axis=1) for block in blocks]
    return [
        float(min(each.min() for each in lengths)),
        float(max(each.max() for each in lengths)),
    ]
