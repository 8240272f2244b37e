"""Choose the kind of a run's item index: `twotower index`, and what `twotower export` builds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from twotower.pipelines.console import ShowProgress, console, say, stage
from twotower.pipelines.index.queries import sample_queries
from twotower.pipelines.libraries import load_libraries
from twotower.pipelines.run import Run, writes
from twotower.pipelines.steps.preprocess import load_ids, load_tables

if TYPE_CHECKING:
    from twotower.serving.index.choice import Choice, Trial

KIND = "serving.index.kind"


@writes
def index(run: Run) -> Choice:
    """Try the kinds of indexes, print how they compare, and store the chosen kind.

    It becomes `serving.index.kind` in the run's config.yaml, where the next export reads it.

    Parameters
    ----------
    run : Run
        Its `serving.index` says which kinds are tried, and what they must be like.

    Returns
    -------
    Choice

    Raises
    ------
    ServingError
        If no index is as wanted; the table is printed before.
    """
    from twotower.serving.index.choice import choose_index

    run.verified("ingest", "preprocess", "train")
    with stage("index") as (progress, result):
        progress(0, 1, "import")
        load_libraries()
        progress(0, 1, "item vectors")
        _, vectors = available_vectors(run)
        choice = choose_index(vectors, run_queries(run, vectors, progress), wanted(run), progress)
        result(f"{choice.chosen.kind} is chosen" if choice.chosen else "no index is as wanted")
    console.print(comparison(choice, len(vectors), vectors.shape[1]))
    kind = choice.require().kind
    run.override((f"{KIND}={kind}",))
    run.store_overrides()
    say(f"{KIND} is {kind} in {run.path / 'config.yaml'}; `twotower export` builds it")
    return choice


def write_run_index(
    run: Run, item_ids: np.ndarray, vectors: np.ndarray, out: Path, progress: ShowProgress
) -> dict[str, Any]:
    """Write the index that `serving.index` asks for.

    Parameters
    ----------
    run : Run
    item_ids : ndarray of int64, shape (n,)
        Codes of the items, ascending.
    vectors : ndarray of float32, shape (n, D)
    out : Path
        The folder of the index.
    progress : callable

    Returns
    -------
    dict of str to Any
        The metadata of the index.

    Raises
    ------
    ServingError
        If no index reaches the recall within the memory.
    """
    from twotower.serving.index.choice import choose_index, write_choice

    towers = run.identity("train")
    choice = choose_index(vectors, run_queries(run, vectors, progress), wanted(run), progress)
    return write_choice(choice, item_ids, vectors, out, towers)


def described(metadata: Mapping[str, Any]) -> str:
    """Return what to say of an index beside its size; nothing of an exact one.

    >>> described({"kind": "hnsw", "recall": {"value": 0.97, "k": 100}})
    '; hnsw index with recall@100 0.970'
    """
    if "kind" not in metadata:
        return ""
    found = metadata["recall"]
    return f"; {metadata['kind']} index with recall@{found['k']} {found['value']:.3f}"


def run_queries(run: Run, vectors: np.ndarray, progress: ShowProgress) -> np.ndarray:
    """Compute the queries that measure an index; none if the exact one is chosen without them."""
    from twotower.serving.index.choice import QUERIES, approximate_kinds

    if not approximate_kinds(wanted(run), *vectors.shape):
        return np.zeros((0, vectors.shape[1]), np.float32)
    progress(phase="query vectors")
    return sample_queries(run, QUERIES)


def wanted(run: Run) -> Any:
    """What the settings want of the index, as `serving.index.choice.Wanted`."""
    from twotower.serving.index.choice import AUTO, Wanted
    from twotower.serving.runtime.index.kinds import FLAT

    serving = run.config.serving
    settings = serving.index
    kind: str = settings.kind
    if serving.runtime == "merlin" and kind == AUTO:
        kind = FLAT  # merlin-systems' executor sorts all items
    return Wanted(kind, settings.recall, settings.memory_bytes)


def available_vectors(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Compute the vectors of the items that may be recommended.

    Returns
    -------
    item_ids : ndarray of int64, shape (n,)
        Codes, ascending.
    vectors : ndarray of float32, shape (n, D)
    """
    from twotower.models.training.saving import CANDIDATE_TOWER, load_tower
    from twotower.models.two_tower import embed
    from twotower.workflows.availability import read_available

    available, item_ids = read_available(run.path / "data"), load_ids(run)[1]
    vectors = embed(load_tower(run.path / "model" / CANDIDATE_TOWER), load_tables(run)[1])
    if available.all():  # without a copy
        return item_ids, vectors
    return item_ids[available], vectors[available]


def comparison(choice: Choice, count: int, dim: int) -> Table:
    """Return a table of the indexes that were tried."""
    table = Table(title=f"indexes of {count:,} items, {dim} dimensions", title_justify="left")
    for name in ("kind", "parameters", "recall@100", "p50 ms", "MB", "build s", ""):
        table.add_column(name, justify="left" if name in ("kind", "parameters", "") else "right")
    for trial in choice.trials:
        verdict = "chosen" if trial is choice.chosen else trial.refused
        table.add_row(trial.kind, trial.parameters, *_numbers(trial), verdict)
    return table


def _numbers(trial: Trial) -> list[str]:
    """Return the cells of a trial; empty where it was not measured."""
    is_measured = not math.isnan(trial.ms)
    return [
        f"{trial.recall:.4f}" if is_measured else "",
        f"{trial.ms:.3f}" if is_measured else "",
        f"{trial.bytes / 1e6:,.1f}",
        f"{trial.seconds:.1f}" if is_measured else "",
    ]


def plain_choice(choice: Choice) -> dict[str, Any]:
    """Return a choice as JSON has it: the chosen kind, and all trials."""
    rows = [
        {
            "kind": trial.kind,
            "parameters": trial.parameters,
            "recall": trial.recall if not math.isnan(trial.ms) else None,
            "p50_ms": trial.ms,
            "bytes": trial.bytes,
            "build_seconds": trial.seconds,
            "refused": trial.refused,
        }
        for trial in choice.trials
    ]
    return {"chosen": choice.require().kind, "queries": choice.queries, "tried": rows}
