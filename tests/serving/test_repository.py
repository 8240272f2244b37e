"""Versions are whole or not there, a damaged one is refused by name, and one can go back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from twotower import serving
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.manifest import sealed, write_manifest
from twotower.serving.triton.control import ModelControl

ROOT = str(Path(serving.__file__).parents[1])


def stage(root: Path, text: str) -> Path:
    """A version of three files, ready to be added to the repository at `root`."""
    staged = root.with_name("staged")
    (staged / "index").mkdir(parents=True)
    (staged / "config.pbtxt").write_text('name: "retrieval"\n')
    (staged / "index" / "index.faiss").write_text(text * 100)
    write_manifest(staged, created="2026-11-22T12:00:00+00:00", towers_sha256=text, runtime="x")
    return staged


@pytest.fixture
def repository(tmp_path) -> ModelRepository:
    """Versions 1 and 2; nothing is published."""
    repository = ModelRepository(tmp_path / "triton")
    for text in ("one", "two"):
        repository.add(stage(repository.root, text))
    return repository


def contents(root: Path) -> dict[str, bytes]:
    """Every file but the lock, by its path."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_versions_are_numbered_and_described(repository):
    assert not (repository.root.parent / "staged").exists()
    one, two = repository.versions()
    assert (one.number, one.towers_sha256, one.runtime, one.published) == (1, "one", "x", False)
    assert (two.number, two.created) == (2, "2026-11-22T12:00:00+00:00")
    folder = repository.root / "retrieval" / "2"
    assert two.bytes == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    assert repository.published is None


def test_publishing_writes_one_config_that_says_it_all(repository):
    assert repository.publish(1) == 1
    assert repository.publish() == 2
    assert repository.publish() == 2  # twice is once
    config = (repository.root / "retrieval" / "config.pbtxt").read_text()
    assert config.startswith('name: "retrieval"\nversion_policy { specific { versions: [2] } }\n')
    assert 'string_value: "1 2"' in config
    assert [each.published for each in repository.versions()] == [False, True]
    assert repository.published == 2


def test_rollback_goes_back_step_by_step(repository):
    for number in (1, 2, 1):
        repository.publish(number)
    assert [repository.rollback(), repository.rollback()] == [2, 1]
    with pytest.raises(ServingError, match="no version was published before 1"):
        repository.rollback()
    assert repository.published == 1


def test_ctrl_c_while_a_server_loads_publishes_the_version_before_again(repository):
    """Also to the server, which may still finish the load."""

    class Interrupted(ModelControl):
        def load(self, **options: float) -> None:
            asked_for.append(repository.published)
            if len(asked_for) == 1:
                raise KeyboardInterrupt

        def version(self) -> int:
            return 1

    asked_for = []
    repository.publish(1)
    before = contents(repository.root)
    with pytest.raises(KeyboardInterrupt):
        repository.publish(2, Interrupted("127.0.0.1:1", "", timeout=1))
    assert asked_for == [2, 1]
    assert contents(repository.root) == before


def test_the_newest_that_was_ever_published_is_remembered(repository):
    assert repository.newest_published == 0
    repository.publish(1)
    assert repository.newest_published == 1  # version 2 never was
    repository.publish(2)
    repository.rollback()
    assert (repository.published, repository.newest_published) == (1, 2)
    repository.publish(1)
    (repository.root / "retrieval" / "config.pbtxt").write_text("damaged")
    assert repository.newest_published == 2  # by the copy
    repository.mend()
    assert (repository.published, repository.newest_published) == (1, 2)
    shutil.rmtree(repository.root / "retrieval" / "2")
    assert repository.add(stage(repository.root, "three")) == 3  # a number is not given again


def test_what_cannot_be_published_is_explained(repository, tmp_path):
    with pytest.raises(ServingError, match="nothing to roll back to; none is published"):
        repository.rollback()
    with pytest.raises(ServingError, match="no version 7; there are 1, 2"):
        repository.publish(7)
    with pytest.raises(ServingError, match="no version to publish; run `twotower export`"):
        ModelRepository(tmp_path / "empty").publish()
    with pytest.raises(ServingError, match=r"no version is published\. Run `twotower export` and"):
        repository.mend()


def test_the_oldest_are_pruned_but_never_what_is_served_or_was_before(repository):
    repository.publish(1)
    repository.publish(2)
    for text in ("three", "four", "five", "six"):
        repository.add(stage(repository.root, text))
    repository.prune(keep=2)
    assert [each.number for each in repository.versions()] == [1, 2, 5, 6]
    repository.publish(5)
    repository.prune(keep=2)
    assert [each.number for each in repository.versions()] == [2, 5, 6]
    assert repository.rollback() == 2
    with pytest.raises(ServingError, match="version 1, published before version 2, is no longer"):
        repository.rollback()


def test_a_number_is_never_given_again(repository):
    repository.publish()
    for number in ("1", "2"):
        shutil.rmtree(repository.root / "retrieval" / number)
    assert repository.add(stage(repository.root, "three")) == 3


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lose_the_last_byte(path: Path) -> None:
    truncate(path)


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def link_folder(path: Path) -> None:
    path.parent.rename(path.parents[2] / "elsewhere")
    path.parent.symlink_to(path.parents[2] / "elsewhere")


def plant(path: Path) -> None:
    path.with_name("planted.py").write_text("raise SystemExit")


def plant_cache(path: Path) -> None:
    (path.parent / "__pycache__").mkdir()
    (path.parent / "__pycache__" / "module.pyc").touch()


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


INDEX = "2/index/index.faiss"


@pytest.mark.parametrize(
    "name, damage, message",
    [
        (INDEX, flip, r"2/index/index\.faiss: differs from the file in the manifest"),
        (INDEX, truncate, r"2/index/index\.faiss: differs from the file in the manifest"),
        (INDEX, Path.unlink, r"2/index/index\.faiss: missing, though the manifest lists it"),
        (INDEX, link, r"2/index/index\.faiss: a link or a device"),
        (INDEX, link_folder, r"2/index: a link or a device"),
        (INDEX, make_pipe, r"2/index/index\.faiss: a link or a device"),
        (INDEX, plant, r"2/index/planted\.py: not listed by the manifest"),
        (INDEX, plant_cache, r"2/index/__pycache__/module\.pyc: not listed by the manifest"),
        ("2/config.pbtxt", flip, r"2/config\.pbtxt: differs from the file in the manifest"),
        ("2/manifest.json", truncate, r"2/manifest\.json: missing or unreadable"),
        ("2/manifest.json", Path.unlink, r"2/manifest\.json: missing or unreadable"),
        ("2/manifest.json", flip, r"2/manifest\.json: changed since it was written"),
        ("2/manifest.json", lose_the_last_byte, r"2/manifest\.json: changed since it was written"),
        ("2/manifest.json", link, r"2/manifest\.json: a link or a device"),
    ],
)
def test_a_damaged_version_is_refused_by_name_and_nothing_changes(
    name, damage, message, repository
):
    repository.publish(1)
    if "truncate" in damage.__name__ and name.endswith("json"):
        (repository.root / "retrieval" / name).write_text('{"files": {')
    damage(repository.root / "retrieval" / name)
    before = contents(repository.root / "retrieval")
    for attempt in (repository.publish, lambda: repository.publish(2)):
        with pytest.raises(ServingError, match=message):
            attempt()
    assert contents(repository.root / "retrieval") == before
    assert repository.mend() == [] and repository.published == 1


def test_a_manifest_cannot_vouch_for_a_file_outside_its_version(repository):
    manifest = repository.root / "retrieval" / "2" / "manifest.json"
    tree = json.loads(manifest.read_text())
    tree["files"]["../1/config.pbtxt"] = tree["files"]["config.pbtxt"]
    manifest.write_bytes(sealed(tree))
    with pytest.raises(ServingError, match=r"2/\.\./1/config\.pbtxt: missing"):
        repository.publish()


def test_what_python_cached_of_a_version_is_not_kept(repository):
    cache = repository.root / "retrieval" / "2" / "__pycache__"
    cache.mkdir()
    (cache / "model.cpython-311.pyc").touch()
    repository.publish()
    assert not cache.exists()


def test_a_damaged_version_gives_way_to_the_newest_whole_one(repository):
    repository.add(stage(repository.root, "three"))
    for number in (1, 2, 3):
        repository.publish(number)
    flip(repository.root / "retrieval" / "3" / "index" / "index.faiss")
    (repository.root / "retrieval" / "2" / "config.pbtxt").unlink()
    third, second = repository.mend()
    assert "3/index/index.faiss: differs from the file" in third
    assert "2/config.pbtxt: missing" in second
    assert repository.published == 1
    assert repository.mend() == []
    plant(repository.root / "retrieval" / "1" / "x")
    with pytest.raises(
        ServingError, match=r"1/planted\.py: not listed.*Run `twotower export` and `twotower pu"
    ):
        repository.mend()


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink, lambda path: path.write_text("")])
def test_a_damaged_config_is_noticed_and_restored(damage, repository):
    repository.publish(1)
    repository.publish(2)
    path = repository.root / "retrieval" / "config.pbtxt"
    whole = path.read_bytes()
    damage(path)
    assert repository.published == 2  # by its copy
    (problem,) = repository.mend()
    assert problem == f"{path}: changed since a version was published"
    assert path.read_bytes() == whole


def test_every_bit_of_the_config_counts(repository):
    repository.publish()
    path = repository.root / "retrieval" / "config.pbtxt"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert repository.mend(), f"byte {place}"
    assert path.read_bytes() == whole


def run(script: str, *, prefix: tuple[str, ...] = (), cwd: Path) -> subprocess.CompletedProcess:
    """A Python script in a process of its own that imports nothing but `serving.repository`."""
    start = (
        f"import sys; sys.path.insert(0, {ROOT!r})\n"
        "from pathlib import Path\n"
        "from twotower.serving.repository import ModelRepository\n"
        "repository = ModelRepository(Path('triton'))\n"
    )
    return subprocess.run(
        [*prefix, sys.executable, "-c", start + script], cwd=cwd, capture_output=True, text=True
    )


KILLED_AT_EACH_LINE = """
import os, signal
def die(line):
    left = line
    def trace(frame, event, _):
        nonlocal left
        names = ("repository.py", "files.py", "config_file.py")
        if not frame.f_code.co_filename.endswith(tuple(f"serving/{name}" for name in names)):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
line = 0
while True:
    line += 1
    os.system("rm -rf triton staged && cp -r before triton && cp -r new staged")
    child = os.fork()
    if child == 0:
        die(line)
        repository.add(Path("staged"))
        repository.publish()
        repository.prune(2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert repository.mend() == [], line
    numbers = [version.number for version in repository.versions()]
    assert numbers in ([1, 2, 3], [1, 2, 3, 4], [2, 3, 4], [3, 4]), numbers
    assert repository.published in ((3, 4) if 4 in numbers else (3,)), (line, numbers)
    for version in repository.versions():
        assert version.created != "damaged"
    print(*numbers, repository.published)
    if status == 0:
        break
    assert status == signal.SIGKILL, status
    published = repository.publish()
    repository.prune(2)
    left = {path.name for path in Path("triton/retrieval").iterdir()}
    assert left <= {"config.pbtxt", "config.copy", "1", "2", "3", "4"}, left
"""


def test_a_kill_at_any_line_leaves_the_old_version_published_or_the_new_one(repository):
    """Line by line: at each the process dies, and the next one finds everything whole."""
    folder = repository.root.parent
    repository.add(stage(repository.root, "three"))
    repository.publish(2)
    repository.publish(3)
    repository.root.rename(folder / "before")
    stage(repository.root, "four").rename(folder / "new")
    done = run(KILLED_AT_EACH_LINE, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    states = done.stdout.splitlines()
    assert list(dict.fromkeys(states)) == ["1 2 3 3", "1 2 3 4 3", "1 2 3 4 4", "2 3 4 4", "3 4 4"]
    assert len(states) > 100


def test_a_version_that_is_removed_while_they_are_listed_is_not_listed(repository, monkeypatch):
    numbers = repository._numbers()
    monkeypatch.setattr(repository, "_numbers", lambda: [*numbers, 9])
    assert [version.number for version in repository.versions()] == numbers


def test_two_publishes_at_once_wait_for_each_other(repository):
    """The lock is a process's, and a killed one's is free."""
    holder = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            f"import sys, time; sys.path.insert(0, {ROOT!r})\n"
            "from pathlib import Path; from twotower.serving.repository import ModelRepository\n"
            f"with ModelRepository(Path({str(repository.root)!r})).lock():\n"
            "    print('held', flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    script = "import fcntl; fcntl.flock(open('triton/.lock', 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    try:
        assert holder.stdout.readline() == "held\n"
        assert "BlockingIOError" in run(script, cwd=repository.root.parent).stderr
        holder.kill()
        holder.wait()
        assert run(script, cwd=repository.root.parent).returncode == 0
        assert repository.publish() == 2
    finally:
        holder.kill()
        holder.wait()


def test_many_publishes_from_many_processes_end_whole(repository):
    script = "for number in (1, 2) * 20: repository.publish(number); repository.prune(2)"
    command = [
        *(sys.executable, "-c"),
        f"import sys; sys.path.insert(0, {ROOT!r}); from pathlib import Path\n"
        "from twotower.serving.repository import ModelRepository\n"
        f"repository = ModelRepository(Path({str(repository.root)!r}))\n{script}",
    ]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert repository.mend() == [] and repository.published == 2
    history = (repository.root / "retrieval" / "config.pbtxt").read_text()
    assert len(history.split('string_value: "')[1].split('"')[0].split()) == 20
    assert [each.number for each in repository.versions()] == [1, 2]


OWN_MOUNTS = ("unshare", "--mount", "--map-root-user")


@pytest.fixture
def disk(tmp_path):
    """Runs a script in a folder that is a disk of its own, of 400 KB."""
    probe = subprocess.run([*OWN_MOUNTS, "mount", "-t", "tmpfs", "none", "/mnt"], check=False)
    if probe.returncode:
        pytest.skip("needs the right to mount a tmpfs in a namespace of its own (unshare)")
    mount = f"mount -t tmpfs -o size=400k none {tmp_path} && cd {tmp_path} && exec "
    return lambda script: run(
        f"import contextlib, os; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_repository import contents, stage\n"
        "from twotower.serving.runtime.errors import ServingError\n" + script,
        prefix=(*OWN_MOUNTS, "sh", "-c", mount + '"$0" "$@"'),
        cwd=tmp_path,
    )


def test_a_full_disk_leaves_everything_as_it_was(disk):
    done = disk("""
repository.add(stage(repository.root, "one"))
repository.publish()
repository.add(stage(repository.root, "two"))
before = contents(repository.root)
with open("filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
    while True:
        filler.write(b"x" * 512)
try:
    repository.publish()
except ServingError as error:
    print(error)
assert contents(repository.root) == before and repository.published == 1
os.unlink("filler")
print(repository.publish())
""")
    assert done.returncode == 0, done.stderr
    message, number = done.stdout.splitlines()
    assert "No space left on device; the model repository is unchanged. Make room" in message
    assert number == "2"


def test_a_disk_that_is_read_only_is_reported(disk):
    done = disk("""
repository.add(stage(repository.root, "one"))
repository.publish()
staged = stage(repository.root, "two")
os.system("mount -o remount,ro .")
for change in (lambda: repository.add(staged), repository.publish, repository.rollback):
    try:
        change()
    except ServingError as error:
        print(error)
assert repository.published == 1
""")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all("triton/.lock: Read-only file system; the model repository is" in x for x in lines)
