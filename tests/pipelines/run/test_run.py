"""The run folder: whole steps or nothing, and nothing unvouched for is read."""

from __future__ import annotations

import ctypes
import errno
import itertools
import json
import os
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from twotower.pipelines.config import CONFIGS, load_config
from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.run import Run, write_atomically
from twotower.serving.repository import ModelRepository


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run.create(load_config(CONFIGS / "synthetic.yaml"))


def write_step(run: Run, name: str, folder: str, text: str = "x") -> None:
    with run.step(name) as (out, notes):
        (out / folder / "file").write_text(text)
        notes["text"] = text


def test_a_step_leaves_its_files_and_an_entry(run):
    write_step(run, "ingest", "data", "hello")
    assert (run.path / "data" / "file").read_text() == "hello"
    entry = json.loads((run.path / "manifest.json").read_text())["steps"]["ingest"]
    assert entry["notes"] == {"text": "hello"}
    assert list(entry["files"]) == ["data/file"]
    assert run.verified("ingest") == run.path


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_step_changes_nothing(run, error):
    write_step(run, "ingest", "data", "old")
    before = (run.path / "manifest.json").read_text()
    with pytest.raises(error), run.step("ingest") as (out, _):
        (out / "data" / "file").write_text("half")
        raise error
    assert (run.path / "data" / "file").read_text() == "old"
    assert (run.path / "manifest.json").read_text() == before
    files = {"config.yaml", "data", "manifest.json", ".twotower.lock"}
    assert {p.name for p in run.path.iterdir()} == files


def test_a_changed_file_is_not_vouched_for(run):
    write_step(run, "ingest", "data")
    (run.path / "data" / "file").write_text("y")
    with pytest.raises(RunError, match=r"data/file: does not match its hash in the manifest"):
        run.verified("ingest")


def test_a_missing_file_says_which_step_makes_it(run):
    write_step(run, "ingest", "data")
    (run.path / "data" / "file").unlink()
    with pytest.raises(RunError, match=r"data/file: missing; run `twotower ingest` again"):
        run.verified("ingest")


def test_a_step_made_from_older_data_is_refused(run):
    write_step(run, "ingest", "data", "one")
    write_step(run, "preprocess", "processed")
    run.verified("preprocess")
    write_step(run, "ingest", "data", "two")
    with pytest.raises(RunError, match="`preprocess` was made from another `ingest`"):
        run.verified("preprocess")


def test_the_same_data_again_is_not_another_data(run):
    write_step(run, "ingest", "data", "one")
    write_step(run, "preprocess", "processed")
    write_step(run, "ingest", "data", "one")
    assert run.verified("preprocess") == run.path


def test_a_step_out_of_order_says_what_to_run(run):
    with pytest.raises(RunError, match="`ingest` has not run yet; run `twotower ingest`"):
        write_step(run, "preprocess", "processed")


def test_a_changed_setting_is_named_with_the_step_that_reads_it(run):
    write_step(run, "ingest", "data")
    write_step(run, "preprocess", "processed")
    run.override(("split.seed=7", "positives.at_least=4"))
    run.verified("ingest")
    with pytest.raises(RunError, match=r"with another positives\.at_least, split\.seed; leave out"):
        run.verified("preprocess")
    assert run.verified("preprocess", settings=False) == run.path


def test_a_setting_that_an_older_run_did_not_have_was_at_its_default(run):
    write_step(run, "ingest", "data")
    write_step(run, "preprocess", "processed")
    manifest = run.manifest
    features = manifest["steps"]["preprocess"]["made_with"]["features"]
    del features["user_numeric"], features["user_multi_hot"], features["min_frequency"]
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    run.verified("preprocess")
    run.override(("features.min_frequency=7",))
    with pytest.raises(RunError, match=r"with another features\.min_frequency; leave out"):
        run.verified("preprocess")


def test_where_a_server_listens_does_not_age_an_export(run):
    for name, folder in (("ingest", "data"), ("preprocess", "processed"), ("train", "model")):
        write_step(run, name, folder)
    write_step(run, "export", "index")
    run.override(("serving.http_port=8000", "serving.keep_versions=9"))
    assert run.verified("export") == run.path


def write_two(run: Run, text: str) -> None:
    with run.steps("both", "ingest", "preprocess") as (out, notes):
        for folder in ("data", "workflow", "processed"):
            (out / folder / "file").write_text(text)
        notes["preprocess"]["text"] = text


def test_steps_that_belong_together_happen_together(run):
    write_two(run, "old")
    assert run.verified("ingest", "preprocess") == run.path
    assert (run.notes("ingest"), run.notes("preprocess")) == ({}, {"text": "old"})
    with pytest.raises(KeyError), run.steps("both", "ingest", "preprocess") as (out, _):
        (out / "data" / "file").write_text("new")
        raise KeyError
    assert run.verified("ingest", "preprocess") == run.path
    assert (run.path / "data" / "file").read_text() == "old"
    write_step(run, "ingest", "data", "another")
    with pytest.raises(RunError, match="`preprocess` was made from another `ingest`"):
        run.verified("preprocess")


CLONE_NEWPID = 0x20000000


def in_a_process(work: Callable[[], None], namespace: bool = False) -> int:
    """Do `work` in a process of its own and return its exit status; nothing is cleaned up after it.

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
    """`work`, which ends as by a kill before the folder that it renames as its `number`th."""

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
    """Leave a commit of which data/ is in place; workflow/, processed/ and the manifest are not."""
    work = dies_at_rename(3, lambda: write_two(Run(run.path), text))
    assert in_a_process(work, namespace) == KILLED


def texts(run: Run) -> set[str]:
    names = ("data", "workflow", "processed")
    return {(run.path / name / "file").read_text() for name in names}


@pytest.fixture
def two(run, tmp_path) -> Run:
    """A run in tmp_path/run with two steps made."""
    write_two(run, "old")
    return Run(Path(shutil.copytree(run.path, tmp_path / "run")))


@needs_namespaces
def test_the_process_id_says_nothing_about_what_is_left(two):
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


def test_folders_of_others_are_left_alone(two):
    names = (".Trash-1000", ".backup-20240101", ".train-999999999")
    for name in names:
        (two.path / name).mkdir()
        (two.path / name / "file").touch()
    write_two(Run(two.path), "new")
    assert all((two.path / name / "file").exists() for name in names)


CHANGES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")


def dies_at_change(number: int, work: Callable[[], None]) -> Callable[[], None]:
    """`work`, which ends as by a kill before the `number`th call that may change a file."""

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
    """Two steps with other settings than before, and an export with its version."""
    run = Run(path)
    run.override(("training.epochs=77",))
    with run.steps("all", "ingest", "preprocess", "train", "export") as (out, notes):
        for folder in ("data", "workflow", "processed", "model", "index", "version"):
            (out / folder).mkdir(exist_ok=True)
            (out / folder / "file").write_text("new")
        notes["export"]["version"] = ModelRepository(path / "triton").next_number()


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


def test_a_commit_is_completed_by_its_content_not_by_the_clock(two):
    kill_between_renames(two)
    assert texts(two) == {"old", "new"}
    os.utime(two.path / "manifest.json", (2e9, 2e9))
    assert texts(Run(two.path)) == {"new"}


def test_a_commit_on_another_manifest_is_dropped(two):
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


def test_what_is_reported_done_is_on_the_disk(two, monkeypatch):
    synced, fsync = [], os.fsync

    def noted(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write_two(two, "new")
    staging = f"{two.path}/.twotower-staging"
    assert {f"{staging}/data/file", f"{staging}/data", staging} <= set(synced)
    assert synced[-1] == str(two.path), "after the manifest was moved into place"


def test_a_reader_in_the_midst_of_a_commit_is_told_to_read_again(two, tmp_path):
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


def test_a_failed_step_leaves_the_configuration_of_before(two):
    before = (two.path / "config.yaml").read_bytes()
    other = load_config(CONFIGS / "synthetic.yaml", ("training.epochs=3",))
    run = Run.create(other, two.path)
    with pytest.raises(KeyError), run.step("ingest"):
        raise KeyError
    assert (two.path / "config.yaml").read_bytes() == before
    write_step(run, "ingest", "data")
    assert Run(two.path).config.training.epochs == 3


def test_a_run_whose_first_step_failed_is_none(tmp_path):
    run = Run.create(load_config(CONFIGS / "synthetic.yaml"), tmp_path / "new")
    with pytest.raises(KeyError), run.step("ingest"):
        raise KeyError
    assert [path.name for path in run.path.iterdir()] == [".twotower.lock"]
    with pytest.raises(RunError, match="not a run folder"):
        Run(run.path)
    write_step(Run.create(run.config, run.path), "ingest", "data")
    assert Run(run.path).verified("ingest")


def test_what_a_step_changes_in_the_configuration_comes_on_top_of_what_is_there(two):
    two.override(("training.epochs=3",))
    other = Run(two.path)
    other.override(("training.patience=4",))
    write_step(other, "ingest", "data", "one")
    write_step(two, "ingest", "data", "two")
    kept = Run(two.path).config.training
    assert (kept.epochs, kept.patience) == (3, 4)
    assert two.config.training.patience == 4
    write_step(other, "ingest", "data", "three")
    other.override(("training.epochs=5",))
    write_step(other, "ingest", "data", "four")
    write_step(two, "ingest", "data", "five")
    assert Run(two.path).config.training.epochs == 5, "kept once, not for ever"


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


def test_paths_are_kept_so_that_they_work_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    parquet = "{interactions: a.parquet}"
    overrides = ("ingest.source=parquet", f"ingest.parquet={parquet}", "split.path=s.parquet")
    run = Run.create(load_config(CONFIGS / "synthetic.yaml", overrides), tmp_path / "run")
    write_step(run, "ingest", "data")
    monkeypatch.chdir(tmp_path)
    run = Run(tmp_path / "run")
    assert run.config.ingest.path == tmp_path / "here"
    assert run.config.split.path == tmp_path / "here" / "s.parquet"
    assert run.config.ingest.parquet.interactions == Path("a.parquet"), "starts from the folder"
    run.override(("ingest.path=there", "training.epochs=3"))
    write_step(run, "ingest", "data")
    monkeypatch.chdir("/")
    run = Run(tmp_path / "run")
    assert run.config.ingest.path == tmp_path / "there"
    assert run.config.split.path == tmp_path / "here" / "s.parquet"


def test_a_wrong_override_is_not_kept(two):
    with pytest.raises(ConfigError):
        two.override(("training.epochs=many",))
    write_step(two, "ingest", "data")


def test_the_last_run_is_found_and_no_run_is_explained(run, tmp_path, monkeypatch):
    write_step(run, "ingest", "data")
    run.remember()
    assert Run.last().path == run.path
    monkeypatch.chdir(tmp_path / "runs")
    with pytest.raises(RunError, match="no run yet; `make run` makes one"):
        Run.last()
    with pytest.raises(RunError, match="not a run folder"):
        Run(tmp_path)


def test_overrides_are_kept_once_a_step_has_succeeded_unless_told_otherwise(run):
    run.override(("training.epochs=3",))
    run.override(("serving.http_port=8000",), keep=False)
    assert (run.config.training.epochs, run.config.serving.http_port) == (3, 8000)
    with pytest.raises(ZeroDivisionError), run.step("ingest"):
        1 / 0  # noqa: B018
    assert not (run.path / "config.yaml").exists()
    write_step(run, "ingest", "data")
    kept = Run(run.path).config
    assert (kept.training.epochs, kept.serving.http_port) == (3, 0)


def test_what_the_disk_refuses_is_told_and_changes_nothing(run):
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


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"steps": {"ing', "Unterminated string"),
        ("", "Expecting value: line 1 column 1"),
        ("[]", "it has no `steps`"),
        ("{}", "it has no `steps`"),
        ('{"steps": 3}', "`steps` is not a section"),
    ],
)
def test_a_damaged_manifest_is_explained_and_its_advice_leads_on(run, text, problem):
    write_step(run, "ingest", "data")
    (run.path / "manifest.json").write_text(text)
    with pytest.raises(RunError) as error:
        run.verified("ingest")
    told = str(error.value)
    assert told.startswith("runs/synthetic/manifest.json: damaged (") and problem in told
    with pytest.raises(RunError, match="damaged"), run.step("ingest"):
        raise AssertionError("the work began")
    assert "`twotower run --config runs/synthetic/config.yaml --run runs/synthetic`" in told
    # As told: the file is removed, and the configuration of the run makes it anew.
    (run.path / "manifest.json").unlink()
    again = Run.create(load_config(run.path / "config.yaml"), run.path)
    write_step(again, "ingest", "data")
    assert again.verified("ingest")


def test_what_another_version_recorded_is_explained(run):
    write_step(run, "ingest", "data")
    path = run.path / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["steps"]["ingest"]["made_with"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(
        RunError, match=r"another version .* recorded `ingest`, without 'made_with'"
    ):
        run.verified("ingest")
    with pytest.raises(
        RunError,
        match=r"another version .* recorded `ingest`, without 'summary'; run `twot",
    ):
        run.notes("ingest")["summary"]
    write_step(run, "ingest", "data")  # as told
    assert run.verified("ingest")


def test_a_damaged_configuration_is_named_with_its_place(run):
    write_step(run, "ingest", "data")
    path = run.path / "config.yaml"
    path.write_text(path.read_text() + "model: [\n")
    with pytest.raises(
        ConfigError, match=r"runs/synthetic/config\.yaml, line \d+, column 1: not Y"
    ):
        Run(run.path)


def test_a_configuration_of_another_version_is_explained(run):
    write_step(run, "ingest", "data")
    path = run.path / "config.yaml"
    path.write_text(path.read_text().replace("training:\n", "training:\n  flavour: 3\n"))
    with pytest.raises(ConfigError, match=r"(?s)training\.flavour: no such key.*another version"):
        Run(run.path)


@pytest.mark.parametrize("where", ["file", "file/deeper"])
def test_a_file_where_the_run_folder_should_be_is_named(run, tmp_path, where):
    (tmp_path / "file").write_text("")
    message = rf"{where}: a file is in the way of this folder; name another"
    with pytest.raises(RunError, match=message):
        Run.create(run.config, tmp_path / where)
    with pytest.raises(RunError, match="not a run folder"):
        Run(tmp_path / where)


@pytest.mark.parametrize("sign", "[]*?")
def test_a_path_that_tensorflow_takes_for_a_pattern_is_refused_before_the_work(run, tmp_path, sign):
    write_step(run, "ingest", "data")
    moved = tmp_path / f"a{sign}b" / "run"
    shutil.copytree(run.path, moved)
    other = Run(moved)
    with pytest.raises(RunError, match=r"run: has one of \[ \] \* \? in its path"):
        write_step(other, "ingest", "data")
    assert other.verified("ingest") == moved
    (tmp_path / "link").symlink_to(moved)  # by this path TensorFlow finds its files
    write_step(Run(tmp_path / "link"), "ingest", "data")


def test_a_name_that_is_too_long_for_the_disk_is_no_run_folder(tmp_path):
    with pytest.raises(RunError, match="not a run folder"):
        Run(tmp_path / ("a" * 300))


@pytest.mark.parametrize("pointer", ["runs", "runs/last"])
def test_a_working_directory_that_cannot_be_written_is_told_and_no_error(
    run, tmp_path, monkeypatch, capsys, pointer
):
    write_step(run, "ingest", "data")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / pointer).parent.mkdir(parents=True)
    # Nobody is refused a file where a folder should be, or the reverse, but neither is root.
    if pointer == "runs":
        (elsewhere / "runs").write_text("")
    else:
        (elsewhere / "runs" / "last").mkdir()
    monkeypatch.chdir(elsewhere)
    Run(tmp_path / run.path).remember()
    assert f"Until then name the run: --run {tmp_path / run.path}" in capsys.readouterr().err


def test_the_last_run_that_is_gone_is_named(run):
    run.remember()
    shutil.rmtree(run.path)
    with pytest.raises(
        RunError, match=r"runs/last: the run used last, runs/synthetic, no longer ex"
    ):
        Run.last()
