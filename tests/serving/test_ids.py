"""Text, negative and unsigned ids through a real Triton, in the client and in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.serving.conftest import World, index_and_build
from twotower.serving.client import RetrievalClient
from twotower.serving.config import ServingConfig
from twotower.serving.local import LocalVersion
from twotower.serving.raw_ids import RawIds, VersionIds
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.tensors import NO_VALUE
from twotower.serving.triton.server import TritonServer
from twotower.serving.version import write_version

LONG = "ж" * 500
"""A text of 1,000 bytes, whose key is a hash."""


@dataclass(frozen=True)
class Named:
    """A world whose codes stand for ids."""

    world: World
    ids: VersionIds
    user: Callable[[int], Any]  # code -> id
    item: Callable[[int], Any]
    unknown_user: Any
    unknown_item: Any
    no_item: Any


def text_world(world: World, index: Path) -> Named:
    """Users and items have text ids, in an order that is not that of their codes."""
    users = world.users.sort_values("user_id").reset_index(drop=True)
    known_users, known_items = users["user_id"].to_numpy(), np.sort(world.item_ids)

    def coded(known: np.ndarray, ids: Any) -> Any:
        return np.where(np.isin(ids, known), np.searchsorted(known, ids), -1)

    users["liked"] = [coded(known_items, row).tolist() for row in users["liked"]]
    pairs = world.seen_pairs
    pairs = pd.DataFrame(
        {
            "user_id": coded(known_users, pairs["user_id"]),
            "item_id": coded(known_items, pairs["item_id"]),
        }
    )
    other = replace(
        world,
        users=users.assign(user_id=np.arange(len(users))),
        item_ids=coded(known_items, world.item_ids),
        seen_pairs=pairs,
        index=index,
    )
    draw = np.random.default_rng(0)
    user_names = [f"{number:03d}" for number in draw.permutation(len(users))]
    user_names[1], user_names[2] = "Zoë 数", LONG
    item_names = [f"SKU-{number}" for number in draw.permutation(len(known_items))]
    item_names[3:5] = ["0", "\U0001f600"]
    return Named(
        world=replace(other, ensemble=index_and_build(other)),
        ids=VersionIds(RawIds("BYTES", user_names), RawIds("BYTES", item_names)),
        user=user_names.__getitem__,
        item=item_names.__getitem__,
        unknown_user="nobody",
        unknown_item="SKU-none",
        no_item="",
    )


def unsigned_world(world: World, index: Path) -> Named:
    """Some ids are beyond 2^63, where codes are negative."""
    items = world.item_ids - 400
    assert (items < 0).any() and (items > 0).any()
    pairs = world.seen_pairs.assign(item_id=world.seen_pairs["item_id"] - 400)
    users = world.users.assign(
        liked=[[each - 400 for each in row] for row in world.users["liked"]],
    )
    other = replace(world, users=users, item_ids=items, seen_pairs=pairs, index=index)
    return Named(
        world=replace(other, ensemble=index_and_build(other)),
        ids=VersionIds(RawIds("UINT64"), RawIds("UINT64")),
        user=lambda code: code % 2**64,
        item=lambda code: code % 2**64,
        unknown_user=404,
        unknown_item=2**64 - 2,
        no_item=2**64 - 1,
    )


def negative_world(world: World, index: Path) -> Named:
    """One item has the id -1, which is also written where there is no item."""
    items = np.where(world.item_ids == 1, -1, world.item_ids)
    pairs = world.seen_pairs.assign(item_id=world.seen_pairs["item_id"].replace({1: -1}))
    other = replace(world, item_ids=items, seen_pairs=pairs, index=index)
    return Named(
        world=replace(other, ensemble=index_and_build(other)),
        ids=VersionIds(),
        user=int,
        item=int,
        unknown_user=404,
        unknown_item=-404,
        no_item=-1,
    )


WORLDS = {"text": text_world, "unsigned": unsigned_world, "negative": negative_world}


@pytest.fixture(
    scope="module",
    params=[
        "text",
        pytest.param("unsigned", marks=pytest.mark.slow),
        pytest.param("negative", marks=pytest.mark.slow),
    ],
)
def named(request: pytest.FixtureRequest, world: World, tmp_path_factory) -> Named:
    return WORLDS[request.param](world, tmp_path_factory.mktemp("named") / "index")


@pytest.fixture(scope="module", params=["compiled", pytest.param("merlin", marks=pytest.mark.slow)])
def version(request: pytest.FixtureRequest, named: Named, tmp_path_factory) -> Path:
    """A published version of the world."""
    folder = tmp_path_factory.mktemp("version")
    config = ServingConfig(runtime=request.param, max_k=400, max_batch_size=256)
    write_version(named.world.ensemble, folder / "staged", config, named.ids)
    repository = ModelRepository(folder / "repository")
    repository.add(folder / "staged")
    repository.publish()
    return folder / "repository" / "retrieval" / "1"


@pytest.fixture(scope="module")
def triton(version: Path, tmp_path_factory) -> Iterator[TritonServer]:
    log = tmp_path_factory.mktemp("log") / "log"
    with TritonServer(version.parents[1], log=log) as server:
        yield server


def asked(named: Named) -> tuple[list[int], list, list[list[int]], list[list]]:
    """Users and their histories, as codes and as ids: a known user, four special ones, unknown."""
    codes = named.world.users["user_id"].tolist()[:3]
    if named.ids.users.texts:
        codes = [5, 1, 2]
    items = named.world.item_ids.tolist()
    histories = [items[:3], [], [items[7]], items[1:6]]
    given = [[named.item(code) for code in row] for row in histories]
    given[0].append(named.unknown_item)
    absent = -2 if not named.ids.items.texts else -1
    coded = [[*histories[0], absent], *histories[1:]]
    return codes, [*map(named.user, codes), named.unknown_user], coded, given


def expected(named: Named, codes: list[int], k: int, **given: Any) -> tuple[list, np.ndarray]:
    """The answer by brute force, with ids, and its scores."""
    items, scores = named.world.brute_force([*codes, named.world.unknown_user], k, **given)
    ids = [[named.item(code) for code in row] for row in items.tolist()]
    names = np.where(np.isfinite(scores), np.array(ids, object), named.no_item).tolist()
    return names, scores


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_ids_go_in_and_come_back_as_given(named, triton, protocol):
    codes, users, coded, given = asked(named)
    with RetrievalClient(getattr(triton, protocol), protocol) as client:
        answer = client.recommend(users, k=20)
        names, scores = expected(named, codes, 20)
        assert answer.item_ids.tolist() == names
        np.testing.assert_allclose(answer.scores, scores, atol=1e-5)
        kinds = {"BYTES": object, "UINT64": np.uint64, "INT64": np.int64}
        assert answer.item_ids.dtype == kinds[named.ids.items.datatype]
        answer = client.recommend(pd.Series(users), k=20, features={"liked": given})
        names, scores = expected(named, codes, 20, features={"liked": coded})
        assert answer.item_ids.tolist() == names
        np.testing.assert_allclose(answer.scores, scores, atol=1e-5)
        assert client.recommend([], k=3).item_ids.dtype == kinds[named.ids.items.datatype]


def test_json_has_the_ids_as_they_are(named, triton, post):
    codes, users, coded, given = asked(named)
    datatypes = named.ids.users.datatype, named.ids.items.datatype
    width = max(map(len, given))
    filler = NO_VALUE[datatypes[1]]
    filler = filler if isinstance(filler, str) else int(filler)
    rows = [[*row, *[filler] * (width - len(row))] for row in given]
    body = {
        "parameters": {"k": 15},
        "inputs": [
            {"name": "user_id", "datatype": datatypes[0], "shape": [len(users), 1], "data": users},
            {"name": "liked", "datatype": datatypes[1], "shape": [len(users), width], "data": rows},
        ],
    }
    status, text = post(triton.http, body)
    assert status == 200, text
    items, scores = json.loads(text)["outputs"]
    names, wanted = expected(named, codes, 15, features={"liked": coded})
    assert (items["datatype"], items["data"]) == (
        datatypes[1],
        np.array(names, object).ravel().tolist(),
    )
    np.testing.assert_allclose(scores["data"], wanted.ravel(), atol=1e-5)


def test_places_without_an_item_are_known_by_their_score(named, triton):
    """A user who has seen all items but three, one of which may have the id of no item."""
    code = named.world.exhausted_user
    if named.ids.users.texts:
        known = np.sort(named.world.seen_pairs["user_id"].unique())
        counts = named.world.seen_pairs.groupby("user_id")["item_id"].nunique()
        code = int(counts.index[counts == len(named.world.item_ids) - 3][0])
        assert code in known
    with RetrievalClient(triton.http) as client:
        answer = client.recommend([named.user(code)], k=5)
    names, _ = expected(named, [code], 5)
    assert answer.item_ids.tolist() == names[:1]
    assert np.isfinite(answer.scores).tolist() == [[True] * 3 + [False] * 2]


def test_this_process_answers_like_the_server(named, triton, version):
    _, users, _, _ = asked(named)
    local = LocalVersion(version)
    assert local.knows(users).tolist() == [True] * 3 + [False]
    assert set(local.item_ids.tolist()) == {named.item(code) for code in named.world.item_ids}
    items, scores = local.answer(users, 20, filter_seen=True)
    with RetrievalClient(triton.grpc, "grpc") as client:
        answer = client.recommend(users, k=20)
    assert items.tolist() == answer.item_ids.tolist()
    np.testing.assert_allclose(scores, answer.scores, atol=1e-5)


def test_ids_of_another_kind_are_refused_by_the_client(named, triton):
    wrong = {"BYTES": [42], "UINT64": [-1], "INT64": ["42"]}[named.ids.users.datatype]
    with RetrievalClient(triton.http) as client:
        for values in (wrong, [None], [2.0**60]):
            with pytest.raises(ServingError, match="input 'user_id' holds"):
                client.recommend(values)


def test_texts_that_are_no_ids_are_unknown_users(named, triton):
    if not named.ids.users.texts:
        pytest.skip("for text only")
    known = named.user(5)
    strange = ["", known + "\0", "\0", f" {known}", known[:-1], LONG + "ж", LONG[:-1], "ж" * 9000]
    strange += ["ж" * 31, "ж" * 33, b"\xff", b"\xff" * 49, "\uffff", known.encode() + b"\xc3"]
    with RetrievalClient(triton.http) as client:
        one = client.recommend([named.unknown_user], k=5)
        answer = client.recommend(strange, k=5)
    assert answer.item_ids.tolist() == one.item_ids.tolist() * len(strange)


def test_requests_with_and_without_histories_are_answered_together(named, version):
    """One batch has the columns of all; the ids of a missing history have no type."""
    _, users, _, given = asked(named)
    local = LocalVersion(version)
    contract, ids, engine = local.contract, local._ids, local._engine
    datatype = named.ids.users.datatype
    texts = [user.encode() if isinstance(user, str) else user for user in users[:1]]
    user = np.array([texts], {"BYTES": object, "UINT64": np.uint64}.get(datatype, np.int64))
    history = [[each.encode() if isinstance(each, str) else each for each in given[0]]]
    history = np.array(history, user.dtype)
    alone = contract.read({"user_id": user}, {})
    both = contract.read({"user_id": user, "liked": history}, {})
    for tables in ([alone, both], [both, alone], [alone, alone]):
        table = ids.encode(contract.join(tables))
        answer = engine.run(table)["item_id"]
        singles = [engine.run(ids.encode(contract.join([each])))["item_id"] for each in tables]
        assert answer.tolist() == np.concatenate(singles).tolist()
