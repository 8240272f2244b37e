"""Folders of running servers: whose they are is decided by their lock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton import guard, scratch
from twotower.serving.triton.scratch import Scratch, places, sweep, with_real_path


@pytest.fixture
def place(monkeypatch, tmp_path):
    """A folder in place of /tmp and of /dev/shm."""
    monkeypatch.setattr(scratch, "places", lambda: [str(tmp_path)])
    monkeypatch.setattr(guard, "SHARED_MEMORY", tmp_path)
    return tmp_path


def test_what_dead_servers_left_is_removed_and_nothing_else(place):
    used = Scratch()
    region = place / f"{used.path.name}-region"
    region.touch()
    names = ["twotower-triton-ABCDEFGH", "other-abcdefgh", "twotower-triton-abcdefghi", "elsewhere"]
    strangers = [place / name for name in names]
    for folder in strangers:
        folder.mkdir()
        (folder / "twotower").touch()
    unmarked = place / "twotower-triton-unmarked"
    unmarked.mkdir()
    link = place / "twotower-triton-linked12"
    link.symlink_to(place / "elsewhere")
    kept = {used.path, region, *strangers, unmarked, link}

    abandoned = Scratch()
    (place / f"{abandoned.path.name}-region").touch()
    os.close(abandoned.lock)
    sweep()
    assert set(place.iterdir()) == kept
    assert (place / "elsewhere" / "twotower").exists()
    used.remove()
    assert set(place.iterdir()) == kept - {used.path, region}


def test_a_folder_is_private_and_holds_links(place):
    folder = Scratch()
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert folder.link("a/b", place).is_symlink()
    folder.remove()
    assert place.exists() and not folder.path.exists()


@pytest.mark.parametrize("name", ["with space", "$(touch x)", "ü", "a;b", "a:b"])
def test_a_place_that_a_shell_would_change_is_not_taken(name, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / name))
    assert places() == ["/tmp", "/var/tmp", "/dev/shm"]
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert places()[0] == str(tmp_path)


def test_no_place_at_all_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(scratch, "places", lambda: [str(tmp_path / "missing")])
    with pytest.raises(ServingError, match=r"no folder can be created in .*missing: .* set TMPDIR"):
        Scratch()


def test_messages_name_the_real_path(place):
    folder = Scratch()
    link = folder.link("repository", place)
    real = Path(r"/home/a\1b")
    text = with_real_path(f"ServingError: {link}/retrieval/1/plan.json: missing", real)
    assert text == f"ServingError: {real}/retrieval/1/plan.json: missing"
    folder.remove()
