"""Commits: kills at any moment leave the old steps or the new ones."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipelines.run.conftest import texts, write_two
from twotower.pipelines.errors import RunError
from twotower.pipelines.run import Run
from twotower.serving.repository import ModelRepository

CLONE_NEWPID = 0x20000000


def in_a_process(work: Callable[[], None], namespace: bool = False) -> int:
    """Call `work` in another process and return its exit status; nothing is cleaned up after it.

    In a pid `namespace` of its own the process has the id 1, as it has in a container.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        if namespace and ctypes.CDLL(None).unshare(CLONE_NEWPID):
            os._exit(NOT_ALLOWED)
        if namespace and (inner := os.fork()):
            os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]))
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(FAILED)


def die() -> None:
    os._exit(KILLED)


FAILED, KILLED, NOT_ALLOWED = 1, 9, 77

needs_namespaces = pytest.mark.skipif(
    in_a_process(lambda: None, namespace=True) == NOT_ALLOWED,
    reason="needs the right to make a pid namespace",
)


def dies_at_rename(number: int, work: Callable[[], None]) -> Callable[[], None]:
    """`work`, whose process is killed before its `number`th rename of a folder."""

    def dying() -> None:
        rename, left = Path.rename, number

        def counted(self, target):
            nonlocal left
            left -= 1
            return rename(self, target) if left else die()

        Path.rename = counted
        work()

    return dying


def kill_between_renames(run: Run, namespace: bool = False, text: str = "new") -> None:
    """Leave a commit of which only data/ is in place, not workflow/, processed/ or the manifest."""
    work = dies_at_rename(3, lambda: write_two(Run(run.path), text))
    assert in_a_process(work, namespace) == KILLED


@needs_namespaces
def test_what_a_killed_process_left_is_recovered_whatever_its_process_id(two):
    def killed_in_a_step():
        with Run(two.path).step("ingest") as (out, _):
            (out / "data" / "file").write_text("new")
            die()

    assert in_a_process(killed_in_a_step, namespace=True) == KILLED
    assert in_a_process(lambda: write_two(Run(two.path), "b"), namespace=True) == 0
    assert texts(two) == {"b"}
    kill_between_renames(two, namespace=True)
    assert texts(two) == {"b", "new"}
    verified = lambda: Run(two.path).verified("ingest", "preprocess")  # noqa: E731
    assert in_a_process(verified, namespace=True) == 0
    assert texts(two) == {"new"}


@needs_namespaces
def test_a_reader_in_another_namespace_leaves_a_running_step_alone(two):
    def read():
        assert Run(two.path).notes("preprocess")["text"] == "old"

    with two.step("ingest") as (out, _):
        (out / "data" / "file").write_text("new")
        assert in_a_process(read, namespace=True) == 0
    assert (two.path / "data" / "file").read_text() == "new"


def test_unknown_folders_are_kept(two):
    names = (".Trash-1000", ".backup-20240101", ".train-999999999")
    for name in names:
        (two.path / name).mkdir()
        (two.path / name / "file").touch()
    write_two(Run(two.path), "new")
    assert all((two.path / name / "file").exists() for name in names)


CHANGES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")


def dies_at_change(number: int, work: Callable[[], None]) -> Callable[[], None]:
    """`work`, whose process is killed before its `number`th call that may change a file."""

    def dying() -> None:
        left = number

        def hook(event, arguments):
            nonlocal left
            if event in CHANGES and (event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                left -= 1
                if not left:
                    die()

        sys.addaudithook(hook)
        work()

    return dying


def write_all(path: Path) -> None:
    """Write all steps with a changed setting, and a version."""
    run = Run(path)
    run.override(("training.epochs=77",))
    with run.steps("all", "ingest", "preprocess", "train", "export") as (out, notes):
        for folder in ("data", "workflow", "processed", "model", "index", "version"):
            (out / folder).mkdir(exist_ok=True)
            (out / folder / "file").write_text("new")
        notes["export"]["version"] = ModelRepository(path / "triton").next_number()


@pytest.mark.slow
def test_a_kill_at_any_change_leaves_the_steps_undone_or_done(two, tmp_path, monkeypatch):
    monkeypatch.setattr("twotower.pipelines.run.commit.git_commit", lambda: None)
    outcomes, path = Counter(), tmp_path / "killed"
    for number in itertools.count(1):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(two.path, path)
        status = in_a_process(dies_at_change(number, lambda: write_all(path)))
        run = Run(path)  # the next reader completes what has been committed
        if number % 2:
            with run.writing("next"):  # and so does the next writer, which removes anything else
                left = {each.name for each in path.iterdir() if each.name.startswith(".")}
                assert left == {".twotower.lock"}, number
        new = "train" in run.manifest["steps"]
        run.verified(*run.manifest["steps"], settings=False)
        assert texts(run) == {"new" if new else "old"}, number
        assert (Run(path).config.training.epochs == 77) == new, number
        assert (path / "triton" / "retrieval" / "1" / "file").exists() == new, number
        outcomes[new] += 1
        if status == 0:
            break
        assert status == KILLED
    assert outcomes[False] > 20 and outcomes[True] > 20, outcomes


def test_a_commit_is_completed_whatever_its_time_stamps(two):
    kill_between_renames(two)
    assert texts(two) == {"old", "new"}
    os.utime(two.path / "manifest.json", (2e9, 2e9))
    assert texts(Run(two.path)) == {"new"}


def test_a_commit_for_another_manifest_is_removed(two):
    assert in_a_process(dies_at_rename(1, lambda: write_two(Run(two.path), "new"))) == KILLED
    manifest = two.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace("old", "another"))
    assert texts(Run(two.path)) == {"old"}
    assert not (two.path / ".twotower-staging").exists()


def test_ctrl_c_in_a_commit_does_not_undo_it(two, monkeypatch):
    rename, left = Path.rename, [3]

    def interrupted(self, target):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_two(two, "new")
    assert Run(two.path).verified("ingest", "preprocess") == two.path
    assert texts(two) == {"new"}


def test_a_finished_step_is_written_through_to_the_disk(two, monkeypatch):
    synced, fsync = [], os.fsync

    def noted(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write_two(two, "new")
    staging = f"{two.path}/.twotower-staging"
    assert {f"{staging}/data/file", f"{staging}/data", staging} <= set(synced)
    assert synced[-1] == str(two.path), "after the manifest was moved into place"


def test_a_reader_during_a_commit_is_told_to_run_again(two, tmp_path):
    with two.reading("ingest"), pytest.raises(RunError, match="missing; run `twotower ingest`"):
        (two.path / "data" / "file").rename(tmp_path / "file")
        two.verified("ingest")
    (tmp_path / "file").rename(two.path / "data" / "file")
    message = "another command replaced files while this one read them; run this command again"
    with pytest.raises(RunError, match=message), two.reading("ingest"):
        write_two(Run(two.path), "new")
        raise FileNotFoundError
    kill_between_renames(two, text="newer")
    with pytest.raises(RunError, match=message), two.reading("ingest"):
        two.verified("ingest", "preprocess")


def test_a_killed_commit_does_not_overwrite_a_newer_configuration(two):
    def killed():
        run = Run(two.path)
        run.override(("training.epochs=3",))
        write_two(run, "new")

    assert in_a_process(dies_at_rename(3, killed)) == KILLED
    config = two.path / "config.yaml"
    config.write_text(config.read_text().replace("patience: ", "patience: 1"))
    edited = config.read_text()
    assert texts(Run(two.path)) == {"new"}
    assert config.read_text() == edited
