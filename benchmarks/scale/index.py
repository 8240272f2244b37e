"""The item index of large catalogues: speed, recall and memory, alone and served by Triton."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from twotower.serving.client import RetrievalClient
from twotower.serving.config import ServingConfig
from twotower.serving.index.choice import Trial, Wanted, choose_index, write_choice
from twotower.serving.index.recall import Search, exact_search, median_ms
from twotower.serving.local import LocalVersion
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.index import build_index, load_index
from twotower.serving.triton.server import TritonServer

TOWERS_SHA256 = "b4" * 32
SMALL_ITEMS, USERS = 2_000, 2_000
"""Sizes of the version that the large one is compared with."""
QUERIES, TIMED = 1_000, 200
REQUESTS = 300
K = 10
BLOCK = 1 << 16
NOISE = 1.2
"""Length of the noise that is added to a centre of length 1."""
CENTRES = 1_137
"""Number of centres, whatever the number of items: tastes do not grow with the catalogue. Then 64
of 8,192 lists reach a recall of .97 at 3 million items."""


def clustered(centres: np.ndarray, count: int, path: Path, noise: float, seed: int) -> np.ndarray:
    """Draw vectors around centres, scaled to length 1.

    Parameters
    ----------
    centres : ndarray of float32, shape (c, D)
    count : int
    path : Path
        The .npy file that holds them.
    noise : float
        Length of what is added to a centre.
    seed : int

    Returns
    -------
    ndarray of float32, shape (count, D)
        A memory map of the file.
    """
    draw, dim = np.random.default_rng(seed), centres.shape[1]
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, dim))
    for first in range(0, count, BLOCK):
        size = min(BLOCK, count - first)
        block = draw.standard_normal((size, dim), dtype=np.float32) * np.float32(noise / dim**0.5)
        block += centres[draw.integers(0, len(centres), size)]
        out[first : first + size] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return out


def measure_index(
    items: int, dim: int, folder: Path, kind: str = "ivf_sq8", count: int = CENTRES
) -> dict[str, Any]:
    """Measure an index of clustered synthetic vectors beside an exact search of the same vectors.

    Parameters
    ----------
    items, dim : int
        Size of the catalogue, and of a vector.
    folder : Path
        For the vectors and the index; removed at the end.
    kind : str
        As `serving.index.kind`.
    count : int
        Number of centres.

    Returns
    -------
    dict of str to Any
        Figures by name: recall at 100 on other queries than those that chose the effort, median
        milliseconds of one query on one thread, memory over that of the float vectors.
    """
    folder.mkdir(parents=True)
    try:
        draw = np.random.default_rng(0)
        centres = draw.standard_normal((count, dim), dtype=np.float32)
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        vectors = clustered(centres, items, folder / "items.npy", NOISE, seed=1)
        queries = np.asarray(clustered(centres, QUERIES, folder / "queries.npy", NOISE, seed=2))
        started = time.perf_counter()
        choice = choose_index(vectors, queries, Wanted(kind), _silent)
        trial = choice.require()
        metadata = write_choice(choice, np.arange(items), vectors, folder, TOWERS_SHA256)
        whole = time.perf_counter() - started
        index = load_index(folder)
        timed: dict[str, Search] = {
            "flat": exact_search(vectors),
            "index": partial(index.search, k=100),
        }
        found = median_ms(timed, queries[-TIMED:])
        return _figures(items, dim, trial, metadata, found) | {
            "centres": count,
            "choice and build, s": round(whole, 1),
        }
    finally:
        shutil.rmtree(folder)


def _figures(
    items: int, dim: int, trial: Trial, metadata: dict[str, Any], found: dict[str, float]
) -> dict[str, Any]:
    return {
        "items": items,
        "dimensions": dim,
        "kind": trial.kind,
        "parameters": trial.parameters,
        "recall@100": round(trial.recall, 4),
        "p50 flat, ms": round(found["flat"], 3),
        "p50 index, ms": round(found["index"], 3),
        "times faster than flat": round(found["flat"] / found["index"], 1),
        "memory, MB": round(metadata["bytes"] / 1e6, 1),
        "memory over float vectors": round(metadata["bytes"] / (4 * dim * items), 3),
        "build, s": round(trial.seconds, 1),
    }


class _Served(NamedTuple):
    """Two published versions of the same towers and users."""

    small: Path
    large: Path
    users: np.ndarray
    queries: np.ndarray
    metadata: dict[str, Any]


def measure_served_index(items: int, folder: Path, kind: str = "ivf_sq8") -> dict[str, Any]:
    """Measure Triton's answers from an index of many items beside those of a small model.

    Both versions have the same untrained towers and users; the items are drawn around the users'
    query vectors.

    Parameters
    ----------
    items : int
    folder : Path
        For the versions; removed at the end. Its path must be plain ASCII.
    kind : str
        As `serving.index.kind`.

    Returns
    -------
    dict of str to Any
        Figures by name: the share of answers whose ids are those of the index searched directly,
        and the median milliseconds of a request of one user over gRPC.
    """
    folder.mkdir(parents=True)
    try:
        served = _write_versions(items, folder, kind)
        index = load_index(served.large / "FaissTopK")
        spent: dict[str, list[float]] = {"small": [], "large": []}
        equal = 0
        with ExitStack() as stack:
            clients = {}
            for name, version in (("small", served.small), ("large", served.large)):
                log = folder / f"{name}.log"
                server = stack.enter_context(TritonServer(version.parents[1], log=log))
                client = RetrievalClient(server.grpc, protocol="grpc", timeout=60.0)
                clients[name] = stack.enter_context(client)
            for row in range(REQUESTS + 50):
                user = int(served.users[row])
                for name, client in clients.items():
                    started = time.perf_counter()
                    answer = client.recommend([user], k=K, filter_seen=False)
                    spent[name].append(time.perf_counter() - started)
                # As many as the server fetches: then both have the same effort.
                _, positions = index.search(served.queries[row : row + 1], K)
                equal += np.array_equal(answer.item_ids[0], index.item_ids[positions[0]])
        p50 = {name: float(np.median(each[50:])) * 1e3 for name, each in spent.items()}
        return {
            "items": items,
            "kind": kind,
            "recall@100": served.metadata["recall"]["value"],
            "answers": REQUESTS + 50,
            "equal to the index directly": equal,
            "p50 small model, ms": round(p50["small"], 3),
            "p50, ms": round(p50["large"], 3),
            "p50 over small model": round(p50["large"] / p50["small"], 2),
        }
    finally:
        shutil.rmtree(folder)


def _write_versions(items: int, folder: Path, kind: str) -> _Served:
    """Publish a small version with an exact index, and a large one."""
    from twotower.models.config import TwoTowerConfig
    from twotower.models.training.saving import QUERY_TOWER, save_tower
    from twotower.models.two_tower import build_two_tower, example_input
    from twotower.workflows.features.config import FeaturesConfig
    from twotower.workflows.features.graph import fit_features

    draw, names = np.random.default_rng(0), FeaturesConfig(user=["city"])
    ids = np.arange(1, USERS + 1)
    users = pd.DataFrame(
        {names.user_id: ids, "city": draw.choice(["Oslo", "Kyoto", "Lima"], USERS)}
    )
    pairs = pd.DataFrame(
        {names.user_id: np.repeat(ids, 5), names.item_id: draw.integers(1, SMALL_ITEMS, USERS * 5)}
    ).drop_duplicates(ignore_index=True)
    catalogue = pd.DataFrame({names.item_id: np.arange(1, SMALL_ITEMS + 1)})
    workflow = fit_features(pairs, users, catalogue, names, folder / "workflow")
    schema = workflow.output_schema
    counts = np.ones(schema[names.item_id].int_domain.max + 1)
    model = build_two_tower(schema, counts, TwoTowerConfig(dim=64))
    model({column.name: example_input(column, rows=2) for column in schema})
    save_tower(model.query_encoder, schema, folder / QUERY_TOWER)

    def publish(name: str) -> Path:
        return _publish(folder, name, users, pairs, workflow, names)

    few = draw.standard_normal((SMALL_ITEMS, 64), dtype=np.float32)
    build_index(catalogue[names.item_id].to_numpy(), few, folder / "small", TOWERS_SHA256)
    small = publish("small")
    queries = LocalVersion(small).query_vectors(ids)
    order = draw.permutation(USERS)
    # The vectors of untrained towers are close together: the noise is as large as they differ.
    noise = float(np.linalg.norm(queries - queries.mean(axis=0), axis=1).mean())
    vectors = clustered(queries, items, folder / "items.npy", noise, seed=1)
    choice = choose_index(vectors, queries[order], Wanted(kind), _silent)
    metadata = write_choice(
        choice, np.arange(1, items + 1), vectors, folder / "large", TOWERS_SHA256
    )
    return _Served(small, publish("large"), ids[order], queries[order], metadata)


def _publish(
    folder: Path,
    name: str,
    users: pd.DataFrame,
    pairs: pd.DataFrame,
    workflow: Any,
    names: Any,
) -> Path:
    """Publish a version of the index `folder / name`; return its folder."""
    from twotower.models.training.saving import QUERY_TOWER
    from twotower.serving.ensemble import build_ensemble
    from twotower.serving.seen import SeenItems
    from twotower.serving.version import write_version

    ensemble = build_ensemble(
        users,
        workflow.get_subworkflow("user"),
        folder / QUERY_TOWER,
        folder / name,
        SeenItems.from_pairs(pairs[names.user_id], pairs[names.item_id]),
        item_id=names.item_id,
        towers_sha256=TOWERS_SHA256,
    )
    staged = folder / f"{name}-staged"
    write_version(ensemble, staged, ServingConfig())
    repository = ModelRepository(folder / f"{name}-triton")
    number = repository.add(staged)
    repository.publish()
    return repository.root / "retrieval" / str(number)


def _silent(*_: Any, **__: Any) -> None:
    """No progress."""
