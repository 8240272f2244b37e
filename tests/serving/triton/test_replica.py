"""A replica serves copies of what a repository publishes, and writes nothing to the repository."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path

import pytest

from twotower.serving.client import RetrievalClient
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.manifest import write_manifest
from twotower.serving.triton.control import ModelControl
from twotower.serving.triton.replica import Replica
from twotower.serving.triton.server import TritonServer


@pytest.fixture
def source(tmp_path) -> ModelRepository:
    """Versions 1 to 3 of two files each; 1 and then 2 were published."""
    repository = ModelRepository(tmp_path / "triton")
    for text in ("one", "two", "three"):
        staged = tmp_path / "staged"
        staged.mkdir()
        (staged / "config.pbtxt").write_text('name: "retrieval"\n')
        (staged / "index.faiss").write_text(text)
        write_manifest(staged, created="", towers_sha256=text, runtime="x")
        repository.add(staged)
    repository.publish(1)
    repository.publish(2)
    return repository


def contents(root: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of change of every file, by its path."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def served(replica: Replica) -> str:
    """What the file of the version that a server would load contains."""
    number = str(replica.repository.published)
    return (replica.repository.model / number / "index.faiss").read_text()


def test_it_begins_with_the_published_version_and_writes_nothing_there(source):
    before = contents(source.root)
    with Replica(source.root) as replica:
        assert replica.begin() == []
        assert (replica.repository.published, served(replica)) == (2, "two")
        assert replica.follow(None) is None
        copies = replica.repository.root
        shutil.rmtree(source.model / "2")  # as `prune` does, sooner or later
        assert served(replica) == "two"
    assert not copies.exists()
    assert contents(source.root) == {k: v for k, v in before.items() if "/retrieval/2/" not in k}


def test_a_pinned_version_stays_whatever_is_published(source):
    with Replica(source.root, version=1) as replica:
        replica.begin()
        assert served(replica) == "one"
        source.publish(3)
        assert replica.follow(None) is None
        assert served(replica) == "one"
    with (
        Replica(source.root, version=9) as replica,
        pytest.raises(ServingError, match=rf"{source.root}: no version 9; `twotower versions`"),
    ):
        replica.begin()


def test_a_damaged_version_is_named_and_the_one_before_it_served(source):
    (source.model / "2" / "index.faiss").write_text("spoilt")
    with Replica(source.root) as replica:
        (problem,) = replica.begin()
        assert problem.startswith(f"{source.model}/2/index.faiss: differs")
        assert served(replica) == "one"
    (source.model / "1" / "index.faiss").write_text("spoilt, too")
    with Replica(source.root) as replica, pytest.raises(ServingError, match=r"1/index\.faiss"):
        replica.begin()


def test_nothing_published_is_an_error_that_says_what_to_do(tmp_path):
    with (
        Replica(tmp_path) as replica,
        pytest.raises(ServingError, match=r"no version is published\. Run"),
    ):
        replica.begin()


def test_a_triton_that_cannot_load_is_to_be_restarted(source):
    with Replica(source.root) as replica:
        replica.begin()
        source.publish(3)
        with pytest.raises(ServingError, match=r"version 3 is published, but .* restart"):
            replica.follow(None)
        assert replica.repository.published == 2


@pytest.mark.slow
def test_a_running_server_follows(copy, world, export, tmp_path, monkeypatch):
    """Real Triton: a good version, one that is not loaded yet by its publisher, and a bad one."""
    monkeypatch.setattr("twotower.serving.triton.replica.RETRY_SECONDS", 0.0)
    source = export(world, copy)  # version 2, not published
    users = world.users["user_id"].iloc[:5].tolist()
    with contextlib.ExitStack() as stack:
        replica = stack.enter_context(Replica(copy))
        replica.begin()
        triton = TritonServer(replica.repository.root, log=tmp_path / "log")
        server = stack.enter_context(triton)
        client = stack.enter_context(RetrievalClient(server.http))
        control = ModelControl(server.http, server.key, 60)
        assert client.recommend(users).version == 1
        config = source.model / "config.pbtxt"
        published = config.read_bytes()
        config.write_bytes(published.replace(b"[1]", b"[2]"))
        assert replica.follow(control) is None
        config.write_bytes(published)
        source.publish(2)
        assert replica.follow(control) == 2
        best = client.recommend(users, k=1)
        assert best.version == 2
        (copy / "denied.json").write_text(json.dumps({"items": best.item_ids[:, 0].tolist()}))
        time.sleep(1)
        assert not set(client.recommend(users, k=1).item_ids[:, 0]) & set(best.item_ids[:, 0])
        bad = copy / "retrieval" / "3"
        shutil.copytree(copy / "retrieval" / "2", bad)
        (bad / "model.py").write_text("raise ValueError('spoilt')\n")
        write_manifest(bad, created="", towers_sha256="", runtime="")
        source.publish(3)
        for _ in range(2):
            with pytest.raises(ServingError, match=rf"{bad}: not loaded: .*spoilt"):
                replica.follow(control)
            assert client.recommend(users).version == 2
        source.publish(2)
        assert replica.follow(control) is None  # it answers already
