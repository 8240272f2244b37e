"""Atomic writes, and errors of a full or read-only disk."""

from __future__ import annotations

import errno
import os

import pytest

from tests.pipelines.run.conftest import write_step
from twotower.pipelines.errors import RunError
from twotower.pipelines.run import write_atomically


def test_a_full_disk_is_reported_and_nothing_changes(run):
    write_step(run, "ingest", "data", "old")
    message = r"data/file: No space left on device; nothing has changed\. .*twotower ingest"
    with pytest.raises(RunError, match=message), run.step("ingest") as (out, _):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out / "data" / "file"))
    assert (run.path / "data" / "file").read_text() == "old"
    with pytest.raises(FileNotFoundError), run.step("ingest") as (out, _):
        (out / "nowhere" / "file").write_text("a bug, not the disk")


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(RunError, match=r"nowhere/a\.txt: No such file.*; make room or make it wri"):
        write_atomically(tmp_path / "nowhere" / "a.txt", "one")


def test_a_secret_is_never_readable_by_others(tmp_path, monkeypatch):
    modes = []
    monkeypatch.setattr(os, "fsync", lambda file: modes.append(os.fstat(file).st_mode & 0o777))
    write_atomically(tmp_path / "a.txt", "secret", mode=0o600)
    assert modes[0] == 0o600, "of the file; then the folder is synced"
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o600


def test_atomic_write_replaces_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "one")
    write_atomically(path, "two")
    assert path.read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
