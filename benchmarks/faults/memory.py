"""Part `memory`: memory of the model's process with long histories and requests of every size.

The data is synthetic and the towers are untrained. All that memory depends on (rows, widths,
lengths, requests) is as in a served model.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.report import Check, Rows
from benchmarks.serving.subjects import resident_memory
from twotower.pipelines.libraries import load_libraries
from twotower.serving.client import RetrievalClient
from twotower.serving.config import ServingConfig
from twotower.serving.repository import ModelRepository
from twotower.serving.triton.server import TritonServer

TOWERS_SHA256 = "0" * 64  # the towers are of no run and have no hash
LARGEST_REQUESTS = 3


@dataclass(frozen=True)
class Size:
    """Size of the version and of the requests.

    Attributes
    ----------
    users, items, items_per_user : int
        Of the data.
    history : int
        Items of a user's history that the model reads.
    users_per_request : int
        Maximum.
    requests, warm_up : int
        Random requests that are measured, and random requests before them.
    """

    users: int = 100_000
    items: int = 5_000
    items_per_user: int = 10
    history: int = 2_048
    users_per_request: int = 1_024
    requests: int = 500
    warm_up: int = 100


def measure(size: Size | None = None) -> tuple[Rows, list[Check]]:
    """Serve a synthetic version, send random requests, and measure the process's memory.

    The warm-up is not measured. It consists of LARGEST_REQUESTS requests of the largest kind
    (`users_per_request` users, all features, full histories) and `warm_up` random ones. After it,
    the memory that Triton shares with the model has its final size: two requests of the largest
    kind, as one may still be there when the next one arrives.
    """
    size = size or Size()
    load_libraries()
    with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
        repository, config = Path(folder) / "triton", ServingConfig()
        click.echo(f"  making a version of {size.users:,} users")
        users = write_version(repository, size, config)
        (version,) = ModelRepository(repository).versions()
        with TritonServer(repository, log=Path(folder) / "triton.log") as server:
            resident = [resident_memory(server)["model_mb"]]
            with RetrievalClient(server.http, timeout=60.0) as client:
                for request in _requests(users, size, config):
                    client.recommend(**request)
                    resident.append(resident_memory(server)["model_mb"])
    return _report(size, version.bytes / 1e6, resident)


def _report(size: Size, files: float, resident: list[float]) -> tuple[Rows, list[Check]]:
    loaded, largest = resident[0], resident[LARGEST_REQUESTS]
    random = resident[LARGEST_REQUESTS + 1 :]
    warm, later = random[size.warm_up - 1], random[size.warm_up :]
    growth = 100 * (max(later) / warm - 1)
    name = f"memory, {size.users:,} users, history {size.history}"
    checks = [
        Check(f"{name}: requests of random sizes and inputs", len(later), ">=", size.requests),
        Check(f"{name}: growth of the model process, %", round(growth, 2), "<=", 5),
        Check(f"{name}: model process, MB", max(later), "<=", round(3 * files + 100, 1)),
    ]
    rows = {
        "data": "synthetic",
        **asdict(size),
        "files of the version, MB": round(files, 1),
        "model process, MB: loaded": loaded,
        "model process, MB: after the largest requests": largest,
        "model process, MB: after the warm-up": warm,
        "model process, MB: maximum after the warm-up": max(later),
        "model process, MB: after every 25th request": later[::25],
    }
    return {"memory": rows}, checks


def write_version(repository: Path, size: Size, config: ServingConfig) -> pd.DataFrame:
    """Publish a version of synthetic data and untrained towers; return its users."""
    from twotower.models.config import TwoTowerConfig
    from twotower.models.training.saving import QUERY_TOWER, save_tower
    from twotower.models.two_tower import build_two_tower, example_input
    from twotower.serving.ensemble import build_ensemble
    from twotower.serving.runtime.index import build_index
    from twotower.serving.seen import SeenItems
    from twotower.serving.version import write_version as write
    from twotower.workflows.features.config import FeaturesConfig
    from twotower.workflows.features.graph import fit_features
    from twotower.workflows.features.positives import add_history

    names = FeaturesConfig(user=["age", "city"], user_numeric=["income"], history=size.history)
    pairs, users, items = _tables(size, names)
    users = add_history(pa.Table.from_pandas(users), pairs, pairs, names).to_pandas()
    # The vocabularies are fitted on a sample of the users, as fitting takes the most time.
    known = users.sample(min(len(users), 20_000), random_state=0)
    rows = pairs[pairs[names.user_id].isin(known[names.user_id])]
    folder = repository.parent
    workflow = fit_features(rows, known, items, names, folder / "workflow")
    schema = workflow.output_schema
    counts = np.ones(schema[names.item_id].int_domain.max + 1)
    model = build_two_tower(schema, counts, TwoTowerConfig(dim=64))
    model({column.name: example_input(column, rows=2) for column in schema})
    save_tower(model.query_encoder, schema, folder / QUERY_TOWER)
    vectors = np.random.default_rng(1).normal(size=(len(items), 64)).astype(np.float32)
    build_index(items[names.item_id].to_numpy(), vectors, folder / "index", TOWERS_SHA256)
    ensemble = build_ensemble(
        users,
        workflow.get_subworkflow("user"),
        folder / QUERY_TOWER,
        folder / "index",
        SeenItems.from_pairs(pairs[names.user_id], pairs[names.item_id]),
        item_id=names.item_id,
        towers_sha256=TOWERS_SHA256,
    )
    write(ensemble, folder / "staged", config)
    versions = ModelRepository(repository)
    versions.add(folder / "staged")
    versions.publish()
    return users


def _tables(size: Size, names: Any) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Draw positives, users and items."""
    draw = np.random.default_rng(0)
    items = pd.DataFrame({names.item_id: np.arange(1, size.items + 1)})
    ids = np.arange(1, size.users + 1)
    pairs = pd.DataFrame(
        {
            names.user_id: np.repeat(ids, size.items_per_user),
            names.item_id: draw.integers(1, size.items + 1, size.users * size.items_per_user),
        }
    ).drop_duplicates(ignore_index=True)
    users = pd.DataFrame(
        {
            names.user_id: ids,
            "age": draw.integers(18, 80, size.users),
            "city": draw.choice(["Oslo", "Zürich", "Kyoto", "Lima"], size.users),
            "income": draw.lognormal(10, 1, size.users),
        }
    )
    return pairs, users, items


def _requests(users: pd.DataFrame, size: Size, config: ServingConfig) -> list[dict[str, Any]]:
    """Make the largest requests, then requests of random sizes, users and optional inputs."""
    draw = np.random.default_rng(2)
    ids, names = users.columns[0], ("age", "city", "income", "history")

    def request(count: int, width: int, k: int, given: list[str]) -> dict[str, Any]:
        asked = users.iloc[draw.integers(0, len(users), count)]
        features = {name: asked[name].tolist() for name in given if name != "history"}
        if "history" in given:  # longer and shorter than in the user table
            lengths = draw.integers(0, width + 1, count)
            lengths[0] = width
            features["history"] = [draw.integers(1, size.items + 1, each) for each in lengths]
        unknown = draw.random(count) < 0.1
        return {
            "user_ids": asked[ids].to_numpy() + unknown * size.users,
            "k": k,
            "filter_seen": bool(draw.integers(2)),
            "features": features,
        }

    def up_to(limit: int) -> int:
        """Draw from 1 to the limit, with a log-uniform distribution."""
        return int((limit + 1) ** draw.random())

    largest = [
        request(size.users_per_request, size.history, config.max_k, list(names))
        for _ in range(LARGEST_REQUESTS)
    ]
    return [
        *largest,
        *(
            request(
                up_to(size.users_per_request),
                up_to(size.history),
                up_to(config.max_k),
                [name for name in names if draw.integers(2)],
            )
            for _ in range(size.warm_up + size.requests)
        ),
    ]
