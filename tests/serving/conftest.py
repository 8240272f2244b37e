"""A tiny world: users, items, a fitted workflow, towers with random weights, and two servers."""

from __future__ import annotations

import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from benchmarks.redis_server import BINARY, MISSING
from tests.serving.ranked import ranking_of
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.arrays import expand
from twotower.serving.runtime.contract import ALLOW, EXCLUDE, RETRIEVAL_SCORE, Table
from twotower.serving.runtime.filters.parameters import CANDIDATES, FILTER_SEEN, K
from twotower.serving.runtime.live.rules import EventRules
from twotower.serving.runtime.manifest import write_manifest
from twotower.serving.runtime.tensors import NO_VALUE, NUMPY_DTYPES

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

EVENTS = EventRules(
    user="user_id",
    item="item_id",
    time="timestamp",
    columns={"rating": "FP64", "place": "BYTES", "visit": "INT64"},
    required=["rating"],
    column="rating",
    at_least=3,
)


def request_table(
    ensemble: Any,
    user_ids: Sequence[int],
    k: int = 10,
    filter_seen: bool = True,
    features: Mapping[str, Sequence] | None = None,
    **parameters: str,
) -> Table:
    """The table that a request of these users becomes, with the columns of all features.

    Lists of items are among the features, too.
    """
    from twotower.serving.ensemble import contract

    reads = contract(ensemble, k, k)
    inputs = {reads.user_id: np.asarray(user_ids, np.int64)[:, None]}
    for name, values in (features or {}).items():
        dtype = reads.features.get(name, reads.item_id_type)
        is_list = name in (*reads.lists, ALLOW, EXCLUDE)
        lists = values if is_list else [[value] for value in values]
        flat, counts = list(chain.from_iterable(lists)), np.array([len(row) for row in lists])
        filler = NO_VALUE.get(dtype)
        if dtype == "BYTES":
            flat, filler = [value.encode() for value in flat], filler.encode()
        flat = np.array(flat, NUMPY_DTYPES.get(dtype))
        inputs[name] = expand(flat, counts, max([1, *counts]), filler)
    return reads.complete(reads.read(inputs, {K: k, FILTER_SEEN: filter_seen, **parameters}))


def answer(ensemble: Any, table: Table) -> Table:
    """The stock executor's answer to a table: the reference for every other way."""
    from merlin.table import TensorTable

    found = ensemble.transform(TensorTable(table)).to_dict()
    if not table[CANDIDATES].any():
        found.pop(RETRIEVAL_SCORE, None)
    return found


@dataclass(frozen=True)
class World:
    towers: ClassVar[str] = "a1" * 32  # hash of the towers
    unknown_user: ClassVar[int] = 404
    huge_user: ClassVar[int] = 2**62 + 1  # not representable as float64
    exhausted_user: ClassVar[int] = 31  # has seen all items but three
    sated_user: ClassVar[int] = 38  # has seen all items
    cold_user: ClassVar[int] = (
        843  # in the user table, without a training row; has seen `cold_history`
    )
    cold_history: ClassVar[list] = [*range(1, 451, 45)]  # ten items

    # list feature -> values that are read; the history lists items
    lists: ClassVar[dict] = {"tags": 3, "visits": 2, "liked": 4}
    history: ClassVar[str] = "liked"

    # user_id int64, city str, age int64, income float64, tags lists of str, visits lists of float,
    # spend float64, liked lists of int64; all but the ids, ages and liked with nulls
    users: pd.DataFrame
    item_ids: np.ndarray  # int64 [300], in no order
    vectors: np.ndarray  # float32 [300, 8]
    items: pa.Table  # by which requests filter: year, kinds (lists), in_stock; with nulls
    seen_pairs: pd.DataFrame  # user_id, item_id
    workflow: Any  # the user sub-workflow
    encoder: Any  # the query tower, a merlin-models Encoder
    saved_model: Path
    index: Path
    ensemble: Any

    def encode(self, rows: pd.DataFrame) -> pd.DataFrame:
        """NVTabular's own transform; it runs beside the user table, as it fails on null columns."""
        # A null among the ages is code 1, as Categorify has it; the table's ages have none.
        null = rows["age"].isna().to_numpy()
        rows = rows.fillna({"age": 0})
        both = pd.concat([rows, self.users], ignore_index=True).astype(self.users.dtypes)
        for name in self.lists:
            both[name] = [row if isinstance(row, list) else [] for row in both[name]]
        encoded = self.workflow.transform(both).iloc[: len(rows)]
        return encoded.assign(age=encoded["age"].mask(null, 1))

    def brute_force(
        self,
        user_ids: list[int],
        k: int,
        filter_seen: bool = True,
        features: dict | None = None,
        allowed: Sequence[np.ndarray] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Item ids [n, k] and scores [n, k] by NumPy over the TensorFlow tower.

        `allowed` has for each user which of the items may be in the answer, as bool [300].
        """
        rows = pd.DataFrame({"user_id": user_ids}).merge(self.users, how="left", on="user_id")
        unknown = ~rows["user_id"].isin(self.users["user_id"])
        rows.loc[unknown, ["city", "age", "income"]] = ["no such city", -1, -1.0]
        codes = self.encode(rows.assign(**(features or {})))
        scores = self.tower(codes) @ self.vectors.T
        items, top = np.full((len(rows), k), -1), np.full((len(rows), k), -np.inf)
        given = (features or {}).get(self.history) or [[]] * len(rows)
        for row, user in enumerate(user_ids):
            seen = self.seen_pairs["item_id"][self.seen_pairs["user_id"] == user]
            seen = [*seen, *(given[row] or [])]
            keep = ~np.isin(self.item_ids, seen if filter_seen else [])
            keep &= True if allowed is None else allowed[row]
            best = np.argsort(-scores[row][keep])[:k]
            items[row, : len(best)] = self.item_ids[keep][best]
            top[row, : len(best)] = scores[row][keep][best]
        return items, top

    def tower(self, codes: pd.DataFrame) -> np.ndarray:
        """Query vectors [n, 8] by the Encoder that was saved."""
        return np.asarray(self.encoder(self.arrays(codes)))

    def arrays(self, codes: pd.DataFrame) -> dict[str, np.ndarray]:
        """Encoded columns as [n, 1], of lists as [n, L] with zeros at the end."""
        arrays = {name: codes[name].to_numpy()[:, None] for name in codes}
        for name, length in self.lists.items():
            padded = [[*row, *[0] * (length - len(row))] for row in codes[name]]
            arrays[name] = np.array(padded, np.int32)
        return arrays


@pytest.fixture(scope="session")
def has_redis() -> None:
    """Skip tests with Redis where it is not installed."""
    if not shutil.which(BINARY):
        pytest.skip(MISSING)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    draw = np.random.default_rng(7)
    made = make_users(draw)
    made.loc[made["user_id"] == World.cold_user, "liked"] = pd.Series([World.cold_history] * 120)
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
    vectors = draw.normal(size=(300, 8)).astype(np.float32)
    tower, index = folder / "query_tower", folder / "index"
    cold = pd.DataFrame({"user_id": World.cold_user, "item_id": World.cold_history})
    pairs = pd.concat([pairs, cold], ignore_index=True)
    items = make_items(item_ids, np.random.default_rng(8))
    world = World(users, item_ids, vectors, items, pairs, workflow, None, tower, index, None)
    world = replace(world, encoder=make_encoder(world))
    world.encoder.save(str(tower))
    return replace(world, ensemble=index_and_build(world))


@pytest.fixture(scope="session")
def other_world(world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same but for the items' vectors: every answer is another. Ages are FP64, not INT64."""
    index, users = tmp_path_factory.mktemp("other") / "index", world.users.astype({"age": float})
    other = replace(world, vectors=np.roll(world.vectors, 1, axis=0), users=users, index=index)
    return replace(other, ensemble=index_and_build(other))


def index_and_build(world: World, ranked: bool = True) -> Any:
    """Write the world's index; the ensemble over it, with a ranking model."""
    from twotower.serving.ensemble import build_ensemble
    from twotower.serving.item_columns import item_columns
    from twotower.serving.runtime.index import build_index
    from twotower.serving.seen import SeenItems

    build_index(world.item_ids, world.vectors, world.index, World.towers)
    return build_ensemble(
        world.users,
        world.workflow,
        world.saved_model,
        world.index,
        SeenItems.from_pairs(world.seen_pairs["user_id"], world.seen_pairs["item_id"]),
        item_id="item_id",
        towers_sha256=World.towers,
        filters=item_columns(
            world.items.take(np.argsort(world.item_ids)), ["year", "kinds", "in_stock"]
        ),
        ranking=ranking_of(world, world.index.with_name("ranking")) if ranked else None,
    )


def make_items(item_ids: np.ndarray, draw: np.random.Generator) -> pa.Table:
    """Columns of the items, with nulls."""
    count = len(item_ids)
    years = pd.Series(draw.integers(1980, 2000, count), dtype="Int64")
    years[::9] = None
    kinds = [
        draw.choice(["Drama", "War", "電子", ""], n).tolist() for n in draw.integers(0, 4, count)
    ]
    return pa.table(
        {
            "year": pa.array(years),
            "kinds": pa.array([None if n % 17 == 0 else row for n, row in enumerate(kinds)]),
            "in_stock": pa.array(draw.random(count) < 0.7),
        }
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
    tags = draw.choice(["Jazz", "", "電子", "a\0", "Jazz ", None], (120, 5))
    visits = draw.choice([1.0, 2.0, -7.0, 2.0**53, np.nan], (120, 5))
    lengths = draw.integers(0, 6, (120, 2))
    users["tags"] = [row[:n] for row, n in zip(tags.tolist(), lengths[:, 0], strict=True)]
    users["visits"] = [row[:n] for row, n in zip(visits.tolist(), lengths[:, 1], strict=True)]
    users["spend"] = draw.lognormal(3, 2, 120)
    users.loc[::9, "city"] = None
    for step, name in ((11, "income"), (7, "tags"), (13, "visits"), (8, "spend")):
        users.loc[::step, name] = np.nan
    liked = draw.choice([*range(1, 901, 3), 2, 5], (120, 6))  # 2 and 5 are no items
    users["liked"] = [
        row[:n] for row, n in zip(liked.tolist(), draw.integers(0, 7, 120), strict=True)
    ]
    return users


def fit_workflow(rows: pd.DataFrame, folder: Path) -> Any:
    import nvtabular as nvt
    from merlin.dag.ops.subgraph import Subgraph
    from merlin.schema import Tags
    from nvtabular import ops

    def encode(columns: list[str], *tags: Tags) -> Any:
        encoded = columns >> ops.Categorify(out_path=str(folder), dtype="int32")
        return encoded >> ops.AddMetadata(tags=list(tags))

    user = encode(["user_id"], Tags.USER_ID, Tags.USER)
    user = user + encode(["city", "age", "income"], Tags.USER)
    for name, length in World.lists.items():
        rows[name] = [row if isinstance(row, list) else [] for row in rows[name]]
        tags = [Tags.USER, Tags.SEQUENCE] if name == World.history else [Tags.USER]
        user = user + (encode([name], *tags) >> ops.ListSlice(0, length))
    scaled = ["spend"] >> ops.Normalize(out_dtype="float32") >> ops.FillMissing(0)
    user = user + (scaled >> ops.AddMetadata(tags=[Tags.USER]))
    item = encode(["item_id"], Tags.ITEM_ID, Tags.ITEM)
    workflow = nvt.Workflow(Subgraph("user", user) + Subgraph("item", item))
    workflow.fit(nvt.Dataset(rows))
    return workflow.get_subworkflow("user")


def make_encoder(world: World) -> Any:
    import merlin.models.tf as mm
    import tensorflow as tf
    from merlin.models.tf.transforms.regularization import L2Norm
    from merlin.schema import Schema, Tags

    from twotower.models.towers.embeddings import MultiHotEmbedding

    tf.keras.utils.set_random_seed(3)
    schema = Schema([dense(column) for column in world.workflow.output_schema])
    embeddings = mm.Embeddings(
        schema.select_by_tag(Tags.CATEGORICAL), dim=8, table_cls=MultiHotEmbedding
    )
    encoder = mm.Encoder(
        mm.InputBlockV2(schema, categorical=embeddings),
        mm.MLPBlock([16, 8], no_activation_last_layer=True),
        post=L2Norm(),
    )
    codes = world.encode(world.users)
    encoder({name: tf.constant(array) for name, array in world.arrays(codes).items()})
    return encoder


def dense(column: Any) -> Any:
    """A padded list is a matrix to Merlin."""
    from merlin.schema import Tags

    if not column.is_list:
        return column
    width = column.value_count.max
    tags = [tag for tag in column.tags if tag != Tags.LIST]
    return column.with_shape(((0, None), (width, width))).with_tags(tags)


NAN = np.nan
DIRTY = {
    "city": [None, "", " ", "zürich", "Zürich\0", "\0", "東", "🦉", "Oslo\0\0", "x" * 5000],
    "age": [0, -1, 2**63 - 1, -(2**63), 17, 61],
    "income": [NAN, 0.0, -0.0, 12.5, -12.5, 1e300, -1e300, 5e-324, 12.500000001],
    "tags": [
        *(None, [], [""], [None], ["x" * 5000], ["電子"] * 7, ["Jazz", "Jazz"], ["Jazz", None]),
        *([None, "nope", "Jazz"], ["a\0", "\0\0", "a", "Jazz"], ["🦉", "Jazz ", "jazz"]),
    ],
    "visits": [
        *(None, [], [NAN], [1.0, NAN], [NAN, 2.0], [2.0**53, 2.0**53 + 2], [1e300, -1e300]),
        *([-0.0, 5e-324], [-7.0] * 9, [1.0000001, 1.0], [np.inf, 2.0]),
    ],
    "spend": [NAN, 0.0, -0.0, 1e30, -1e30, 5e-324, -12.5, 1 / 3],
    "liked": [None, [], [1], [2, 4], [7] * 9, [1, 4, 7, 10, 13, 16], [-1, 2**63 - 1]],
}


def dirty_rows(world, count: int) -> pd.DataFrame:
    """Known, unknown, empty, unicode and null values and lists; negative and huge numbers."""
    draw = np.random.default_rng(5)
    known = world.users.sample(count, replace=True, random_state=2, ignore_index=True)
    ids = [0, -1, 2**63 - 1, -(2**63), world.huge_user, world.huge_user + 1, world.unknown_user]
    for column, values in {"user_id": ids, **DIRTY}.items():
        choice = pd.Series(values, dtype=world.users[column].dtype)
        choice = choice.sample(count, replace=True, random_state=4, ignore_index=True)
        known[column] = known[column].where(draw.random(count) < 0.4, choice)
    return known


@pytest.fixture(scope="session")
def engine(world: World, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The compiled engine of the world."""
    from twotower.serving.ensemble import compile_ensemble
    from twotower.serving.runtime.compiled_engine import CompiledEngine

    folder = tmp_path_factory.mktemp("engine")
    compile_ensemble(world.ensemble, folder)
    return CompiledEngine(folder)


@pytest.fixture(scope="session")
def repositories(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model repository a runtime; version 1 is published."""
    folder = tmp_path_factory.mktemp("repositories")
    for runtime in ("compiled", "merlin"):
        _export(world, folder / runtime, runtime=runtime).publish()
    return {runtime: folder / runtime for runtime in ("compiled", "merlin")}


@pytest.fixture(scope="session")
def export():
    """A function that exports a world as the next version of a model repository."""
    return _export


def _export(world: World, root: Path, **settings: Any) -> ModelRepository:
    from twotower.serving.config import ServingConfig
    from twotower.serving.version import write_version

    staged, repository = root.with_name(f"{root.name}-staged"), ModelRepository(root)
    config = ServingConfig(**{"max_k": 400, "max_batch_size": 256, **settings})
    write_version(world.ensemble, staged, config, events=EVENTS)
    repository.add(staged)
    return repository


@pytest.fixture
def copy(repositories: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the compiled repository, to be changed or spoilt."""
    return shutil.copytree(repositories["compiled"], tmp_path / "repository")


@pytest.fixture(scope="session")
def vouch():
    """A function that rewrites the manifest of a version after a change by the test."""
    return _vouch


def _vouch(version: Path) -> None:
    manifest = json.loads((version / "manifest.json").read_text())
    del manifest["files"]
    write_manifest(version, **manifest)


@pytest.fixture(scope="session")
def servers(repositories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory):
    """A running Triton for each runtime, started when it is first asked for."""
    from twotower.serving.triton.server import TritonServer

    logs = tmp_path_factory.mktemp("logs")
    running: dict[str, TritonServer] = {}

    def server(runtime: str) -> TritonServer:
        if runtime not in running:
            events = {"store": "sqlite"} if runtime == "compiled" else None
            running[runtime] = TritonServer(
                repositories[runtime], log=logs / f"{runtime}.log", events=events
            )
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
