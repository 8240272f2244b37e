"""Remote paths, with a folder of this machine in the place of the bucket."""

from __future__ import annotations

import errno
import tempfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from twotower.pipelines.config import from_anywhere, parse_config, to_yaml
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.init.init import init
from twotower.pipelines.job import choose
from twotower.workflows.errors import DataError
from twotower.workflows.ingest import IngestConfig, ingest, source_files
from twotower.workflows.sources import remote
from twotower.workflows.sources.data_path import DataPath
from twotower.workflows.sources.findings import Findings
from twotower.workflows.tables import Tables
from twotower.workflows.update.more import ingest_more

LOG = "user_id,item_id,colour\nann,1,red\nbob,2,blue\n"


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder of the bucket `shop`, and an empty folder for temporary files."""
    folder = tmp_path / "server" / "shop"
    folder.mkdir(parents=True)
    system = SubTreeFileSystem(str(folder.parent), LocalFileSystem())
    monkeypatch.setattr(remote, "_file_system", lambda scheme, bucket: system)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    yield folder
    assert not list((tmp_path / "tmp").iterdir())


def write(path: Path, text: str = LOG) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def copied(path: str) -> list[str]:
    """The names of the files that are copied for a path."""
    with remote.local_copies({0: DataPath(path)}, Findings(print)) as (places, _):
        root = next(each for each in places[0].parents if each.name == "s3").parent
        found = [file for file in root.rglob("*") if file.is_file()]
        return sorted(str(file.relative_to(root / "s3")) for file in found)


def files(path: str, **settings) -> IngestConfig:
    return IngestConfig(source="files", path=path, files={"interactions": "log.csv", **settings})


def test_a_remote_path_stays_as_it_is_written(tmp_path):
    path = DataPath("s3://shop/days/")
    assert str(path) == "s3://shop/days"
    assert str(path / "log.csv") == "s3://shop/days/log.csv"
    assert str(tmp_path / path) == str(path.absolute()) == "s3://shop/days"
    assert str(tmp_path / DataPath("log.csv")) == f"{tmp_path}/log.csv"
    assert not DataPath("s3/shop").is_remote


def test_the_configuration_keeps_it(tmp_path):
    tree = {
        "name": "x",
        "ingest": {
            "source": "files",
            "path": "gs://shop/days",
            "files": {"interactions": "log.csv", "items": "s3://other/items.csv"},
        },
        "features": {"user": [], "item": []},
    }
    config = from_anywhere(parse_config(tree, "x.yaml"))
    assert "path: gs://shop/days\n" in to_yaml(config)
    assert "items: s3://other/items.csv\n" in to_yaml(config)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("s3://shop/a.csv", ["shop/a.csv"]),
        ("s3://shop/days", ["shop/days/1/p.csv", "shop/days/2/p.csv", "shop/days/2/q.json"]),
        ("s3://shop/days/*/p.csv", ["shop/days/1/p.csv", "shop/days/2/p.csv"]),
        ("s3://shop/**/*.csv", ["shop/a.csv", "shop/days/1/p.csv", "shop/days/2/p.csv"]),
        ("s3://shop/days/[2-3]", ["shop/days/2/p.csv", "shop/days/2/q.json"]),
    ],
)
def test_only_what_is_named_is_copied(bucket, path, expected):
    for name in ("a.csv", "days/1/p.csv", "days/2/p.csv", "days/2/q.json"):
        write(bucket / name)
    assert copied(path) == expected


def test_a_file_in_a_zip(bucket):
    with zipfile.ZipFile(bucket / "all.zip", "w") as archive:
        archive.writestr("2024/log.csv", LOG)
    assert copied("s3://shop/all.zip/2024/log.csv") == ["shop/all.zip"]


def test_it_reads_what_is_read_locally(bucket, tmp_path):
    write(bucket / "days" / "log.csv")
    messages: list[str] = []
    for name, path in (("local", str(bucket / "days")), ("remote", "s3://shop/days")):
        (tmp_path / name).mkdir()
        ingest(files(path), tmp_path / name, on_message=messages.append)
    local, far = (Tables.read(tmp_path / name) for name in ("local", "remote"))
    assert all(mine.equals(theirs) for mine, theirs in zip(far, local, strict=True))
    assert f"s3://shop/days/log.csv: read from a temporary copy (1 file, {len(LOG)} bytes)" in (
        messages
    )


def test_messages_and_the_report_have_the_remote_name(bucket, tmp_path):
    write(bucket / "log.csv", LOG + ",3,red\n")
    (tmp_path / "out").mkdir()
    messages: list[str] = []
    ingest(files("s3://shop"), tmp_path / "out", on_message=messages.append)
    assert any("rows of s3://shop/log.csv have no user_id" in each for each in messages)
    report = (tmp_path / "out" / "report.json").read_text()
    assert "s3://shop/log.csv" in report
    assert str(tmp_path) not in report
    with pytest.raises(DataError, match=r"^1 of 3 rows of s3://shop/log.csv have no user_id"):
        ingest(files("s3://shop").copy(update={"strict": True}), tmp_path / "out")


def test_an_update_from_a_remote_folder_in_another_format(bucket, tmp_path):
    write(bucket / "log.csv")
    write(bucket / "day" / "log.json", '{"user_id": "cem", "item_id": 2, "colour": "red"}\n')
    (tmp_path / "out").mkdir()
    ingest(files("s3://shop"), tmp_path / "out")
    day = ingest_more(files("s3://shop"), tmp_path / "out", DataPath("s3://shop/day"))
    assert day is not None
    assert day.appended == 1


def test_init_writes_the_remote_name(bucket, tmp_path):
    rows = "".join(f"u{i % 20},{i % 13},c{i % 3}\n" for i in range(200))
    write(bucket / "log.csv", "user_id,item_id,colour\n" + rows)
    out = tmp_path / "twotower.yaml"
    init({"interactions": DataPath("s3://shop/log.csv")}, out=out)
    assert "interactions: s3://shop/log.csv" in out.read_text().replace("'", "")


def test_what_is_not_there_is_named(bucket, tmp_path):
    with pytest.raises(DataError, match=r"s3://shop/log.csv: nothing there.*AWS_ACCESS_KEY_ID"):
        ingest(files("s3://shop"), tmp_path)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError("AWS Error ACCESS_DENIED"), "ACCESS_DENIED.*AWS_SECRET_ACCESS_KEY"),
        (OSError(errno.ENOSPC, "No space left"), "no room in .*TMPDIR"),
        (pa.ArrowNotImplementedError("without S3"), "pyarrow .* cannot read s3://; copy the files"),
    ],
)
def test_failures_are_one_sentence(bucket, tmp_path, monkeypatch, error, expected):
    write(bucket / "log.csv")

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(remote, "copy_files", fail)
    with pytest.raises(DataError, match=f"^s3://shop/log.csv: .*{expected}"):
        ingest(files("s3://shop"), tmp_path)


def test_credentials_in_a_path_are_refused_and_not_repeated():
    tree = {"name": "x", "ingest": {"source": "files", "path": "s3://key:secret@shop/x"}}
    with pytest.raises(
        ConfigError, match=r"ingest.path: the s3:// path has credentials.*AWS_ACCESS"
    ) as e:
        parse_config(tree, "x.yaml")
    assert "secret@" not in str(e.value)
    with pytest.raises(DataError, match="has credentials") as caught:
        copied("s3://key:secret@shop/x")
    assert "secret@" not in str(caught.value)


def test_what_needs_local_files_says_so(tmp_path):
    with pytest.raises(DataError, match=r"s3://shop/log.csv: not on this machine"):
        source_files(files("s3://shop"))
    with pytest.raises(ValueError, match="source ml-1m reads files of this machine only"):
        IngestConfig(source="ml-1m", path="s3://shop/ml-1m")
    with pytest.raises(ConfigError, match="--data s3://shop: pass --config"):
        choose(None, DataPath("s3://shop"))


def test_the_endpoint_comes_from_the_environment(monkeypatch):
    asked: list[str] = []

    class Recorded:
        @staticmethod
        def from_uri(uri):
            asked.append(uri)
            return None, ""

    monkeypatch.setattr(remote, "FileSystem", Recorded)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    remote._file_system("s3", "shop")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    remote._file_system("s3", "shop")
    assert asked == ["s3://shop?endpoint_override=127.0.0.1%3A9000&scheme=http", "s3://shop?"]
