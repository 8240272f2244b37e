"""Trained towers -> FAISS index -> ensemble -> a new version in the Triton model repository."""

from __future__ import annotations

import numpy as np
import pandas as pd

from twotower.pipelines.console import stage
from twotower.pipelines.libraries import load_libraries
from twotower.pipelines.run import TRITON, VERSION, Run, writes
from twotower.pipelines.steps.preprocess import ITEMS, RAW_USERS, load_split, load_tables


@writes
def export(run: Run) -> dict:
    """Write index/ (FAISS, raw ids) and add a version to triton/; `publish` has it served."""
    run.verified("ingest", "preprocess", "train")
    with stage("export") as (report, result), run.step("export") as (out, notes):
        report(0, 4, "import")
        load_libraries()
        from twotower.models.training.saving import CANDIDATE_TOWER, QUERY_TOWER, load_tower
        from twotower.models.two_tower import embed
        from twotower.serving.ensemble import build_ensemble
        from twotower.serving.repository import ModelRepository
        from twotower.serving.runtime.index import build_index
        from twotower.serving.runtime.manifest import MANIFEST_FILE, sha256
        from twotower.serving.runtime.seen import SeenItems
        from twotower.serving.version import write_version
        from twotower.workflows.features import load_workflow
        from twotower.workflows.names import internal_name
        from twotower.workflows.tables import read_frame

        report(1, 4, "index the items")
        names = run.config.features
        raw_items = pd.read_parquet(run.path / "data" / ITEMS, columns=[names.item_id])
        raw_users = read_frame(run.path / "processed" / RAW_USERS)
        _, items = load_tables(run)
        towers = run.identity("train")
        vectors = embed(load_tower(run.path / "model" / CANDIDATE_TOWER), items)
        build_index(raw_items[names.item_id].to_numpy(np.int64), vectors, out / "index", towers)
        report(2, 4, "build the ensemble")
        seen_users, seen_items = seen_pairs(run)
        ensemble = build_ensemble(
            raw_users.rename(columns=internal_name),
            load_workflow(run.path / "workflow").get_subworkflow("user"),
            run.path / "model" / QUERY_TOWER,
            out / "index",
            SeenItems.from_pairs(seen_users, seen_items),
            item_id=names.item_id,
            towers_sha256=towers,
            names={internal_name(name): name for name in raw_users},
        )
        report(3, 4, "compile the ensemble")
        staged = out / VERSION
        write_version(ensemble, staged, run.config.serving)
        size = sum(f.stat().st_size for f in staged.rglob("*") if f.is_file())
        notes |= {"items": len(raw_items), "seen_pairs": len(seen_users), "bytes": size}
        notes["version_manifest_sha256"] = sha256(staged / MANIFEST_FILE)
        # The version is added when the step is committed; nobody else adds one in the meantime.
        notes["version"] = ModelRepository(run.path / TRITON).next_number()
        result(
            f"version {notes['version']}: {run.config.serving.runtime} runtime, "
            f"{len(raw_items):,} items indexed, {size / 1e6:.1f} MB"
        )
    return notes


def seen_pairs(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Raw (user ids, item ids) int64 that the server leaves out with filter_seen."""
    names = run.config.features
    if run.config.serving.seen == "interactions":
        columns = [names.user_id, names.item_id]
        pairs = pd.read_parquet(run.path / "data" / "interactions.parquet", columns=columns)
    else:
        parts = load_split(run.path / "processed")
        kept = ("train", "valid", "test")
        if run.config.serving.seen == "train_valid":
            kept = ("train", "valid")
        pairs = pd.concat([parts[part] for part in kept])
    return pairs[names.user_id].to_numpy(np.int64), pairs[names.item_id].to_numpy(np.int64)
