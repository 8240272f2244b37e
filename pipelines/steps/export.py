"""Index the items, build the served graph, and add a version to the model repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.pipelines.console import ShowProgress, stage
from twotower.pipelines.index.choose import described, write_run_index
from twotower.pipelines.libraries import load_libraries
from twotower.pipelines.live.learn import LEARNED
from twotower.pipelines.live.store import ID_TYPES, event_rules
from twotower.pipelines.run import TRITON, VERSION, Run, ranking_step, writes
from twotower.pipelines.steps.preprocess import (
    load_ids,
    load_split,
    load_tables,
    load_times,
    read_ids,
)
from twotower.pipelines.steps.processed import INTERACTIONS, ITEMS, PARTS, RAW_USERS
from twotower.serving.item_columns import check_columns, item_columns
from twotower.serving.runtime.operators.times import TimeFeatures

if TYPE_CHECKING:
    from merlin.systems.dag import Ensemble

    from twotower.serving.operators.rank_candidates import RankingModel
    from twotower.serving.raw_ids import VersionIds
    from twotower.serving.runtime.filters.columns import ItemColumns
    from twotower.workflows.ids import RunIds


@writes
def export(run: Run) -> dict[str, Any]:
    """Write index/ (the FAISS index) and add a version to triton/; `publish` serves it.

    Returns
    -------
    dict
        The notes in the manifest, among them the number of the version.
    """
    run.verified("ingest", "preprocess", "train", *ranking_step(run.config))
    check_columns(pq.read_schema(run.path / "data" / ITEMS), run.config.serving.filters)
    with stage("export") as (progress, result), run.step("export") as (out, notes):
        progress(0, 4, "import")
        load_libraries()
        from twotower.models.training.saving import QUERY_TOWER
        from twotower.serving.ensemble import build_ensemble
        from twotower.serving.repository import ModelRepository
        from twotower.serving.runtime.manifest import MANIFEST_FILE, sha256
        from twotower.serving.seen import SeenItems
        from twotower.workflows.features.encode import load_workflow
        from twotower.workflows.features.names import internal_name
        from twotower.workflows.tables import read_frame

        progress(1, 4, "index the items")
        names = run.config.features
        users, items = load_tables(run)
        raw_users = read_frame(run.path / "processed" / RAW_USERS)
        context, towers = _context(run), run.identity("train")
        available, vectors, index = _index_items(run, items, out / "index", progress)
        progress(2, 4, "build the ensemble")
        seen_users, seen_items = seen_pairs(run)
        ensemble = build_ensemble(
            users=raw_users.rename(columns=internal_name),
            workflow=load_workflow(run.path / "workflow").get_subworkflow("user"),
            saved_model=run.path / "model" / QUERY_TOWER,
            index_dir=out / "index",
            seen=SeenItems.from_pairs(seen_users, seen_items),
            item_id=names.item_id,
            towers_sha256=towers,
            names={
                internal_name(name): name for name in [*raw_users, *context, *names.user_vectors]
            },
            context=context.rename(columns=internal_name),
            vectors={name: users[name] for name in names.sides[0].internal.vectors},
            filters=_filters(run, available),
            ranking=_ranking(run, users, items, vectors=vectors, kept=available),
        )
        progress(3, 4, "compile the ensemble")
        staged = out / VERSION
        _write(run, ensemble, staged)
        size = sum(f.stat().st_size for f in staged.rglob("*") if f.is_file())
        indexed, withdrawn = int(available.sum()), int((~available).sum())
        notes |= {
            "items": indexed,
            "withdrawn": withdrawn,
            "seen_pairs": len(seen_users),
            "bytes": size,
        }
        notes["version_manifest_sha256"] = sha256(staged / MANIFEST_FILE)
        # The version is added when the step is committed. This process holds the lock until then,
        # so no other version gets the number.
        notes["version"] = ModelRepository(run.path / TRITON).next_number()
        result(
            f"version {notes['version']}: {run.config.serving.runtime} runtime, "
            f"{indexed:,} items indexed{f' ({withdrawn:,} withdrawn)' if withdrawn else ''}, "
            f"{size / 1e6:.1f} MB{described(index)}"
        )
    return notes


def _write(run: Run, ensemble: Ensemble, out: Path) -> None:
    """Write the served graph as a version."""
    from twotower.serving.version import write_version

    write_version(
        ensemble,
        out,
        run.config.serving,
        ids=_raw_ids(read_ids(run)),
        times=load_times(run),
        events=event_rules(run),
        learned=run.notes("ingest").get(LEARNED),
    )


def _index_items(
    run: Run, items: dict[str, np.ndarray], out: Path, progress: ShowProgress
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Write the index of the items that may be recommended.

    Returns
    -------
    available : ndarray of bool, shape (n_items,)
        Which items these are.
    vectors : ndarray of float32, shape (n_items, D)
        The vectors of all items.
    index : dict of str to Any
        The metadata of the index.
    """
    from twotower.models.training.saving import CANDIDATE_TOWER, load_tower
    from twotower.models.two_tower import embed
    from twotower.workflows.availability import read_available

    available, item_ids = read_available(run.path / "data"), load_ids(run)[1]
    vectors = embed(load_tower(run.path / "model" / CANDIDATE_TOWER), items)
    kept = vectors if available.all() else vectors[available]  # without a copy
    index = write_run_index(run, item_ids[available], kept, out, progress)
    return available, vectors, index


def _ranking(
    run: Run,
    users: dict[str, np.ndarray],
    items: dict[str, np.ndarray],
    *,
    vectors: np.ndarray,
    kept: np.ndarray,
) -> RankingModel | None:
    """The ranking model for the served graph, if there is one; see `served_ranking`."""
    if run.config.ranking.model is None:
        return None
    from twotower.pipelines.ranking.served import served_ranking

    return served_ranking(run, users, items, vectors, kept)


def _filters(run: Run, available: np.ndarray) -> ItemColumns:
    """The columns by which requests filter, of the items of the index in its order."""
    names, item_id = run.config.serving.filters, run.config.features.item_id
    items = pq.read_table(run.path / "data" / ITEMS, columns=[item_id, *names])
    return item_columns(items.filter(pa.array(available)).sort_by(item_id), names)


def _raw_ids(ids: RunIds) -> VersionIds:
    from twotower.serving.raw_ids import RawIds, VersionIds

    users, items = (RawIds(ID_TYPES[str(side.type)], side.texts.to_pylist()) for side in ids)
    return VersionIds(users=users, items=items)


def _context(run: Run) -> pd.DataFrame:
    """The features of the context as columns without rows."""
    interactions = pq.read_schema(run.path / "data" / INTERACTIONS)
    stored = interactions.empty_table().to_pandas()[run.config.features.stored_context]
    times = load_times(run)
    if times is None:
        return stored
    return stored.assign(**TimeFeatures(**times).encode(np.zeros(0, np.int64)))


def seen_pairs(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """The pairs that the server leaves out with `filter_seen`, by `serving.seen`.

    Returns
    -------
    user_ids, item_ids : ndarray of int64, shape (n,)
        The codes of each pair.
    """
    names, seen = run.config.features, run.config.serving.seen
    if seen == "interactions":
        from twotower.workflows.interactions.reading import read_numbers

        path = run.path / "data" / INTERACTIONS
        user_ids, item_ids = read_numbers(path, [names.user_id, names.item_id])
        return user_ids, item_ids
    parts = load_split(run.path / "processed")
    kept = [part for part in PARTS if part != "test" or seen != "train_valid"]
    pairs = pd.concat([parts[part] for part in kept])
    return pairs[names.user_id].to_numpy(np.int64), pairs[names.item_id].to_numpy(np.int64)
