"""A tiny world: users, items, a fitted workflow, towers with random weights, and two servers."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@dataclass(frozen=True)
class World:
    towers: ClassVar[str] = "a1" * 32  # hash of the towers
    unknown_user: ClassVar[int] = 404
    huge_user: ClassVar[int] = 2**62 + 1  # not representable as float64
    exhausted_user: ClassVar[int] = 31  # has seen all items but three
    sated_user: ClassVar[int] = 38  # has seen all items
    cold_user: ClassVar[int] = 843  # in the user table, without a training row

    users: pd.DataFrame  # user_id int64, city str with nulls, age int64, income float64 with nulls
    item_ids: np.ndarray  # int64 [300], in no order
    vectors: np.ndarray  # float32 [300, 8]
    seen_pairs: pd.DataFrame  # user_id, item_id
    workflow: Any  # the user sub-workflow
    encoder: Any  # the query tower, a merlin-models Encoder
    saved_model: Path
    index: Path
    ensemble: Any

    def encode(self, rows: pd.DataFrame) -> pd.DataFrame:
        """NVTabular's own transform; it runs beside the user table, as it fails on null columns."""
        both = pd.concat([rows, self.users], ignore_index=True).astype(self.users.dtypes)
        return self.workflow.transform(both).iloc[: len(rows)]

    def brute_force(
        self, user_ids: list[int], k: int, filter_seen: bool = True, features: dict | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Item ids [n, k] and scores [n, k] by NumPy over the TensorFlow tower."""
        rows = pd.DataFrame({"user_id": user_ids}).merge(self.users, how="left", on="user_id")
        unknown = ~rows["user_id"].isin(self.users["user_id"])
        rows.loc[unknown, ["city", "age", "income"]] = ["no such city", -1, -1.0]
        codes = self.encode(rows.assign(**(features or {})))
        scores = self.tower(codes) @ self.vectors.T
        items, top = np.full((len(rows), k), -1), np.full((len(rows), k), -np.inf)
        for row, user in enumerate(user_ids):
            seen = self.seen_pairs["item_id"][self.seen_pairs["user_id"] == user]
            keep = ~np.isin(self.item_ids, seen if filter_seen else [])
            best = np.argsort(-scores[row][keep])[:k]
            items[row, : len(best)] = self.item_ids[keep][best]
            top[row, : len(best)] = scores[row][keep][best]
        return items, top

    def tower(self, codes: pd.DataFrame) -> np.ndarray:
        """Query vectors [n, 8] by the Encoder that was saved."""
        return np.asarray(self.encoder({name: codes[name].to_numpy()[:, None] for name in codes}))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    from serving.ensemble import build_ensemble
    from serving.index import build_index
    from serving.runtime.seen import SeenItems

    folder = tmp_path_factory.mktemp("world")
    draw = np.random.default_rng(7)
    made = make_users(draw)
    trained, users = made["user_id"][:100], made.sample(frac=1.0, random_state=1)
    users = users.reset_index(drop=True)
    item_ids = draw.permutation(300) * 3 + 1
    pairs = pd.DataFrame(
        {"user_id": draw.choice(trained, 2500), "item_id": draw.choice(item_ids, 2500)}
    )
    full = {World.exhausted_user: item_ids[3:], World.sated_user: item_ids}
    full = [pd.DataFrame({"user_id": user, "item_id": items}) for user, items in full.items()]
    pairs = pd.concat(
        [pairs[~pairs["user_id"].isin([World.exhausted_user, World.sated_user])], *full],
        ignore_index=True,
    )
    workflow = fit_workflow(pairs.merge(users, on="user_id"), folder / "workflow")
    encoder = make_encoder(workflow, users)
    encoder.save(str(folder / "query_tower"))
    vectors = draw.normal(size=(300, 8)).astype(np.float32)
    build_index(item_ids, vectors, folder / "index", World.towers)
    ensemble = build_ensemble(
        users,
        workflow,
        folder / "query_tower",
        folder / "index",
        SeenItems.from_pairs(pairs["user_id"], pairs["item_id"]),
        item_id="item_id",
        towers_sha256=World.towers,
    )
    return World(
        users,
        item_ids,
        vectors,
        pairs,
        workflow,
        encoder,
        folder / "query_tower",
        folder / "index",
        ensemble,
    )


def make_users(draw: np.random.Generator) -> pd.DataFrame:
    """120 users, every kind of value among their features."""
    ids = np.arange(120) * 7 + 10
    ids[:3] = [World.huge_user, -5, 0]
    users = pd.DataFrame(
        {
            "user_id": ids,
            "city": draw.choice(["Zürich", "", "東京", "Oslo", "Oslo\0", " Oslo"], 120),
            "age": draw.integers(18, 60, 120),
            "income": draw.integers(1, 9, 120) * 12.5,
        }
    )
    users.loc[::9, "city"] = None
    users.loc[::11, "income"] = np.nan
    return users


def fit_workflow(rows: pd.DataFrame, folder: Path) -> Any:
    import nvtabular as nvt
    from merlin.dag.ops.subgraph import Subgraph
    from merlin.schema import Tags
    from nvtabular import ops

    def encode(columns: list[str], *tags: Tags) -> Any:
        return columns >> ops.Categorify(out_path=str(folder)) >> ops.AddMetadata(tags=list(tags))

    user = encode(["user_id"], Tags.USER_ID, Tags.USER)
    user = user + encode(["city", "age", "income"], Tags.USER)
    item = encode(["item_id"], Tags.ITEM_ID, Tags.ITEM)
    workflow = nvt.Workflow(Subgraph("user", user) + Subgraph("item", item))
    workflow.fit(nvt.Dataset(rows))
    return workflow.get_subworkflow("user")


def make_encoder(workflow: Any, users: pd.DataFrame) -> Any:
    import merlin.models.tf as mm
    import tensorflow as tf
    from merlin.models.tf.transforms.regularization import L2Norm

    tf.keras.utils.set_random_seed(3)
    schema = workflow.output_schema
    encoder = mm.Encoder(
        mm.InputBlockV2(schema, categorical=mm.Embeddings(schema, dim=8)),
        mm.MLPBlock([16, 8], no_activation_last_layer=True),
        post=L2Norm(),
    )
    codes = workflow.transform(users)
    encoder({name: tf.constant(codes[name].to_numpy()[:, None]) for name in codes})
    return encoder


@pytest.fixture(scope="session")
def repositories(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model repository a runtime."""
    from serving.config import ServingConfig
    from serving.repository import export_repository

    folder = tmp_path_factory.mktemp("repositories")
    for runtime in ("compiled", "merlin"):
        config = ServingConfig(runtime=runtime, max_k=400, max_batch_size=256)
        export_repository(world.ensemble, folder / runtime, config)
    return {runtime: folder / runtime for runtime in ("compiled", "merlin")}


@pytest.fixture(scope="session")
def servers(repositories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory):
    """A running Triton for each runtime, started when it is first asked for."""
    from serving.server import TritonServer

    logs = tmp_path_factory.mktemp("logs")
    running: dict[str, TritonServer] = {}

    def server(runtime: str) -> TritonServer:
        if runtime not in running:
            running[runtime] = TritonServer(repositories[runtime], log=logs / f"{runtime}.log")
            running[runtime].start()
        return running[runtime]

    yield server
    for each in running.values():
        each.stop()


@pytest.fixture(params=["compiled", "merlin"])
def server(request: pytest.FixtureRequest, servers):
    """The Triton of each runtime in turn."""
    return servers(request.param)


@pytest.fixture(scope="session")
def assert_same():
    """A function that holds two answers (item ids, scores) against each other."""
    return _assert_same


def _assert_same(answer: tuple, expected: tuple) -> None:
    """Equal ids, scores within 1e-5; two ids may swap places only where scores tie to 1e-6."""
    items, scores = map(np.asarray, answer)
    expected_items, expected_scores = expected
    np.testing.assert_allclose(scores, expected_scores, atol=1e-5)
    np.testing.assert_array_equal(np.sort(items), np.sort(expected_items))
    tie = np.abs(np.diff(np.maximum(expected_scores, -1e9))) <= 1e-6
    tied = np.pad(tie, ((0, 0), (1, 0))) | np.pad(tie, ((0, 0), (0, 1)))
    np.testing.assert_array_equal(items[~tied], expected_items[~tied])


@pytest.fixture(scope="session")
def post():
    """A function that asks the model by raw HTTP."""
    return _post


def _post(address: str, body: Any, binary: bytes = b"") -> tuple[int, str]:
    """Status and text of the model's answer to a raw HTTP request; `binary` follows the JSON."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))} if binary else {}
    request = urllib.request.Request(
        f"http://{address}/v2/models/retrieval/infer", text + binary, headers
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
