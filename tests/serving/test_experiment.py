"""Two versions side by side in one server, each answering its users as it does alone."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from tests.serving import ranked
from tests.serving.conftest import index_and_build
from tests.serving.test_events import metric
from twotower.serving.client import RetrievalClient
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.experiment.split import Split
from twotower.serving.runtime.live.opening import events_path, open_store
from twotower.serving.runtime.live.store import ANSWERS
from twotower.serving.triton.server import TritonServer

SQLITE = {"store": "sqlite"}
EXPERIMENT = {"control": 1, "treatment": 2, "share": 0.4, "salt": "autumn"}


@pytest.fixture(scope="module")
def variant(world, tmp_path_factory):
    """The same world but for the items' vectors."""
    vectors, index = np.roll(world.vectors, 1, axis=0), tmp_path_factory.mktemp("variant") / "index"
    other = replace(world, vectors=vectors, index=index)
    return replace(other, ensemble=index_and_build(other))


@pytest.fixture(scope="module")
def repository(repositories, variant, export, tmp_path_factory):
    root = tmp_path_factory.mktemp("experiment") / "repository"
    shutil.copytree(repositories["compiled"], root)
    export(variant, root)
    return root


@pytest.fixture(scope="module")
def server(repository, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "log"
    with TritonServer(repository, log=log, events=SQLITE, experiment=EXPERIMENT) as server:
        yield server


def columns(found):
    return found.item_ids, found.scores


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_each_user_is_answered_by_one_of_the_versions(
    protocol, world, variant, server, assert_same
):
    users = [*world.users["user_id"].tolist()[:40], world.unknown_user, world.sated_user]
    treated = Split(**EXPERIMENT).treated(users)
    assert 5 < treated.sum() < 37
    with RetrievalClient(getattr(server, protocol), protocol) as client:
        for rank in (False, True):
            answer = client.recommend(users, 10, rank=rank)
            assert answer.arms.tolist() == np.where(treated, 2, 1).tolist()
            for own, its_world in ((~treated, world), (treated, variant)):
                asked = np.array(users)[own].tolist()
                got = answer.item_ids[own], answer.scores[own]
                if rank:
                    assert_same(got, ranked.brute_force(its_world, asked, 10)[:2])
                else:
                    assert_same(got, its_world.brute_force(asked, 10))
        alone = client.recommend(users[:1], 3)
        assert alone.arms.tolist() == [2 if treated[0] else 1] and alone.version == 1
        assert client.similar([[1]], 3).arms is None


def test_events_count_in_both_versions(world, variant, server):
    users = [user for user in world.users["user_id"].tolist()[50:61] if user != world.sated_user]
    assert len(set(Split(**EXPERIMENT).treated(users))) == 2
    with RetrievalClient(server.http) as client:
        best = client.recommend(users, 1).item_ids[:, 0]
        client.record(users, best, server.events_key, {"rating": [5.0] * 10})
        after = client.recommend(users, 300).item_ids
    assert not (after == best[:, None]).any()


def test_answers_and_metrics_name_the_version(world, server):
    users = world.users["user_id"].tolist()[60:70]
    with RetrievalClient(server.http) as client:
        answer = client.recommend(users, 3)
    store = open_store(SQLITE, events_path(server.repository / "retrieval" / "1"), ANSWERS)
    found = []
    while not {*users} <= {each["user"] for each in found}:
        found += [each.event for each in store.read_new()]
    store.close()
    kept = {each["user"]: each for each in found if each["user"] in users}
    for user, items, arm in zip(users, answer.item_ids.tolist(), answer.arms, strict=True):
        assert (kept[user]["items"], kept[user]["version"]) == (items, arm)
    assert metric(server, "twotower_version_info") == 2


def test_a_publication_ends_the_experiment(world, variant, repository, tmp_path, assert_same):
    root = shutil.copytree(repository, tmp_path / "repository")
    ModelRepository(root).publish(2)
    log = tmp_path / "log"
    with (
        TritonServer(root, log=log, events=SQLITE, experiment=EXPERIMENT) as server,
        RetrievalClient(server.http) as client,
    ):
        users = world.users["user_id"].tolist()[:20]
        answer = client.recommend(users, 10)
        assert answer.arms is None
        assert_same(columns(answer), variant.brute_force(users, 10))
    assert "experiment is over" in log.read_text()


@pytest.mark.slow
def test_versions_that_cannot_share_requests_are_refused(copy, other_world, export, tmp_path):
    export(other_world, copy)  # its ages are of another type
    server = TritonServer(copy, log=tmp_path / "log", events=SQLITE, experiment=EXPERIMENT)
    with pytest.raises(ServingError, match="1 and 2 cannot share requests: their 'features' diff"):
        server.start()
    missing = {**EXPERIMENT, "treatment": 9}
    server = TritonServer(copy, log=tmp_path / "log", events=SQLITE, experiment=missing)
    with pytest.raises(ServingError, match="there is no version 9"):
        server.start()
