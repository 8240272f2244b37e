"""The model's own metrics, as Triton publishes them, and its lines in the log."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request

import numpy as np
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from twotower.serving.client import RetrievalClient
from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton.control import ModelControl
from twotower.serving.triton.server import TritonServer

FLUSH_SECONDS = 1.0


def metrics(server) -> dict[tuple[str, str], float]:
    """(metric, value of its label beside the version) -> value, for the model's own metrics."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {
        (sample.name, next((v for k, v in sample.labels.items() if k != "version"), "")): value
        for family in families
        for sample in family.samples
        for value in [sample.value]
        if sample.name.startswith("twotower_")
    }


def settled(server, least: float) -> dict[tuple[str, str], float]:
    """The metrics once that many requests are counted, or those after ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = metrics(server)
        if sum(v for (name, _), v in found.items() if name == "twotower_requests_total") >= least:
            break
        time.sleep(0.2)
    return found


@pytest.fixture(scope="module")
def counted(servers, world) -> dict[tuple[str, str] | str, float]:
    """What 12 users, two of them unknown, one asked for twice, and a bad request add up to.

    And "took", the seconds until all three were answered.
    """
    server = servers("compiled")
    time.sleep(2 * FLUSH_SECONDS)  # until the requests of earlier tests are published
    before = metrics(server)
    asked = sum(v for (name, _), v in before.items() if name == "twotower_requests_total")
    users = world.users["user_id"].iloc[:10].tolist()
    with RetrievalClient(server.http) as client:
        began = time.perf_counter()
        client.recommend([*users, world.unknown_user, -77])
        client.recommend(users[:1], filter_seen=False)
        with pytest.raises(ServingError):
            client.recommend(users, k=0)
        took = time.perf_counter() - began
    after = settled(server, asked + 3)
    more = {key: value - before.get(key, 0.0) for key, value in after.items()}
    return {**more, "took": took}


def test_requests_are_counted_by_outcome(counted):
    assert counted["twotower_requests_total", "answered"] == 2
    assert counted["twotower_requests_total", "refused"] == 1
    assert counted["twotower_batches_total", ""] == 3


def test_unknown_users_and_hidden_items_are_counted(counted, world):
    assert counted["twotower_users_total", "true"] == 11
    assert counted["twotower_users_total", "false"] == 2
    seen = world.seen_pairs.drop_duplicates()
    hidden = seen["user_id"].isin(world.users["user_id"].iloc[:10]).sum()
    assert counted["twotower_items_hidden_total", ""] == hidden


def test_every_stage_has_its_seconds(counted):
    """Each more than none, and together less than the client waited."""
    name = "twotower_stage_seconds_total"
    seconds = {key[1]: value for key, value in counted.items() if key[0] == name}
    steps = {"UserRows", "UserFeatures", "EncodeFeatures", "QueryTower", "FaissTopK"}
    assert seconds.pop("RankCandidates", 0) == 0  # nobody has asked the model `recommend`
    assert seconds.keys() == {"read", "split", *steps}
    assert min(seconds.values()) > 0
    assert sum(seconds.values()) < counted["took"]


def test_the_version_says_what_it_is_made_of(servers, world):
    found = metrics(servers("compiled"))
    assert found["twotower_version_info", world.towers] == 1


def test_a_version_loaded_again_is_counted_once(repositories, tmp_path, world):
    repository = shutil.copytree(repositories["compiled"], tmp_path / "repository")
    with TritonServer(repository, log=tmp_path / "log") as server:
        (repository / "retrieval" / "1" / "model.py").touch()  # so that Triton loads it again
        ModelControl(server.http, server.key, timeout=60).load()
        time.sleep(3 * FLUSH_SECONDS)
        assert metrics(server)["twotower_version_info", world.towers] == 1
        assert server.log.read_text().count('"event": "loaded"') == 2


def test_a_version_whose_process_was_killed_is_counted_once(repositories, tmp_path, world):
    """A killed process cannot take back what it has added; Triton also kills slow ones."""
    repository = shutil.copytree(repositories["compiled"], tmp_path / "repository")
    with TritonServer(repository, log=tmp_path / "log") as server:
        (model,) = psutil.Process(server.pid).children()
        model.kill()
        (repository / "retrieval" / "1" / "model.py").touch()
        ModelControl(server.http, server.key, timeout=60).load()
        time.sleep(2 * FLUSH_SECONDS)
        assert server.log.read_text().count('"event": "loaded"') == 2
        assert metrics(server)["twotower_version_info", world.towers] == 1


def test_a_cached_vector_is_counted_and_gives_the_same_answer(servers, world):
    server, user = servers("compiled"), int(world.users["user_id"].iloc[50])
    with RetrievalClient(server.http) as client:
        first, second = (client.recommend([user]) for _ in range(2))
    np.testing.assert_array_equal(first.item_ids, second.item_ids)
    np.testing.assert_array_equal(first.scores, second.scores)
    deadline = time.monotonic() + 10
    while not metrics(server).get(("twotower_users_cached_total", "")):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_loading_is_a_line_of_json_in_the_log(servers, world):
    lines = servers("compiled").log.read_text().splitlines()
    line = next(json.loads(line) for line in lines if '"event": "loaded"' in line)
    assert line["level"] == "INFO"
    assert line["towers"] == world.towers
    assert 0 < line["seconds"] < 60
