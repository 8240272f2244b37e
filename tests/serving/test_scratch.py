"""Folders of running servers: whose they are is decided by their lock."""

from __future__ import annotations

import os

import pytest

from serving import scratch
from serving.errors import ServingError
from serving.scratch import Scratch, sweep, with_real_path


@pytest.fixture(autouse=True)
def shared_memory(monkeypatch, tmp_path):
    """A folder in place of /dev/shm."""
    monkeypatch.setattr(scratch, "SHARED_MEMORY", tmp_path)
    return tmp_path


def abandoned(region: str = "region") -> Scratch:
    """A folder and its region, whose server and guard are gone."""
    folder = Scratch()
    folder.path.with_name(folder.path.name + region).touch()
    os.close(folder.lock)
    return folder


def test_what_dead_servers_left_is_removed_and_nothing_else(shared_memory):
    used = Scratch()
    region = used.path.with_name(f"{used.path.name}-region")
    region.touch()
    strangers = [shared_memory / name for name in ("twotower-triton-ABCDEFGH", "other-abcdefgh")]
    strangers += [shared_memory / f"twotower-triton-{name}" for name in ("nolock12", "abcdefghi")]
    for folder in strangers:
        folder.mkdir()
        if "nolock" not in folder.name:
            (folder / "lock").touch()
    elsewhere = shared_memory / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    link = shared_memory / "twotower-triton-linked12"
    link.symlink_to(elsewhere)
    kept = {used.path, region, *strangers, elsewhere, link}
    abandoned()
    assert set(shared_memory.iterdir()) > kept
    sweep()
    assert set(shared_memory.iterdir()) == kept
    assert (elsewhere / "lock").exists()
    used.remove()
    assert set(shared_memory.iterdir()) == kept - {used.path, region}


def test_a_folder_is_private_and_plain(shared_memory):
    folder = Scratch()
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert folder.link("a/b", shared_memory).resolve() == shared_memory
    assert (folder.path / "a" / "b").is_symlink()
    folder.remove()
    assert shared_memory.exists() and not folder.path.exists()


def test_a_place_that_cannot_be_written_is_told(monkeypatch, shared_memory):
    monkeypatch.setattr(scratch, "SHARED_MEMORY", shared_memory / "missing")
    with pytest.raises(ServingError, match=r"missing: No such file .*shares memory .* there"):
        Scratch()


def test_messages_name_the_real_path(tmp_path):
    folder = Scratch()
    link = folder.link("repository", tmp_path)
    real = tmp_path / r"a\1b"
    told = with_real_path(f"{link}/retrieval/1/plan.json: missing", real)
    assert told == f"{real}/retrieval/1/plan.json: missing"
    folder.remove()
