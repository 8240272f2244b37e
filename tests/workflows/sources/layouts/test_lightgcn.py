"""LightGCN's files: the pairs, the official parts, and lines that are refused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from tests.workflows.conftest import write_files
from twotower.workflows.errors import DataError
from twotower.workflows.ingest import IngestConfig, detect_source, ingest, source_files
from twotower.workflows.sources.layouts.lightgcn import LightGCN
from twotower.workflows.split import SplitConfig, split
from twotower.workflows.update.more import ingest_more

FILES = {"train.txt": ["0 5 7", "1 5", "2"], "test.txt": ["0 9", "1 ", "2 7 5"]}


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_files(tmp_path / "toy", FILES)


def test_lines_become_pairs_with_their_part(folder):
    tables = LightGCN(folder).read()
    assert tables.interactions.to_pydict() == {
        "user_id": [0, 0, 1, 0, 2, 2],
        "item_id": [5, 7, 5, 9, 7, 5],
        "part": ["train"] * 3 + ["test"] * 3,
    }
    assert tables.users.to_pydict() == {"user_id": [0, 1, 2]}
    assert tables.items.to_pydict() == {"item_id": [5, 7, 9]}
    assert [file.name for file in LightGCN(folder).files()] == ["train.txt", "test.txt"]


def test_it_is_recognised_by_its_lines(folder, tmp_path):
    assert detect_source(folder) == ("lightgcn", folder)
    (folder / "train.txt").unlink()
    assert detect_source(folder) == ("lightgcn", folder)
    for name, lines in {
        "pairs": ["1 5", "1 7", "2 5"],
        "text": ["a word", "more words"],
        "csv": ["1,5", "2,7"],
        "blank": ["1 5", "", "2 5"],
        "none": [],
    }.items():
        other = write_files(tmp_path / name, {"train.txt": lines})
        assert detect_source(other) is None, name


def test_the_official_test_part_is_kept(folder, tmp_path):
    long = {"train.txt": [f"{user} {' '.join(map(str, range(20)))}" for user in (1, 2)]}
    path = write_files(tmp_path / "long", {**long, "test.txt": ["1 20 21", "2 22"]})
    report = ingest(IngestConfig(source="lightgcn", path=path), tmp_path / "data")
    assert str(report) == "lightgcn: 43 interactions, 2 users, 23 items"
    rows = pd.read_parquet(tmp_path / "data" / "interactions.parquet")
    result = split(rows, SplitConfig(method="column", ratios=(0.9, 0.1, 0)))
    sizes = result.groupby(["user_id", "part"]).size().unstack()
    assert sizes.to_dict("index") == {
        1: {"train": 18, "valid": 2, "test": 2},
        2: {"train": 18, "valid": 2, "test": 1},
    }
    day = write_files(tmp_path / "day", {"train.txt": ["1 30", "3 5"]})
    config = IngestConfig(source="lightgcn", path=path)
    merged = ingest_more(config, tmp_path / "data", day).merged
    assert merged.interactions.read().slice(43).to_pydict() == {
        "user_id": [1, 3],
        "item_id": [30, 5],
        "part": ["train", "train"],
    }
    assert source_files(config) == [path / "train.txt", path / "test.txt"]


def test_a_repeated_pair_is_kept_once_and_counted(tmp_path):
    path = write_files(tmp_path / "twice", {"train.txt": ["0 5 7 5"], "test.txt": ["0 9"]})
    messages: list[str] = []
    tables = LightGCN(path).read(on_message=messages.append)
    assert tables.interactions["item_id"].to_pylist() == [5, 7, 9]
    assert messages == ["1 of 4 pairs are repeated; each is kept once"]


@pytest.mark.parametrize(
    "files, message",
    [
        ({"train.txt": ["0 5", "1 x"]}, r"train\.txt, line 2: 'x'; expected whole numbers"),
        ({"train.txt": ["0 5", "1 -3"]}, r"train\.txt, line 2: '-3'; expected whole numbers"),
        ({"train.txt": ["0 5", "", "1 5"]}, r"train\.txt, line 2: ''; expected whole"),
        ({"test.txt": ["0 9", "0 8"]}, r"test\.txt, line 2: user 0 has a line already, line 1"),
        ({"test.txt": ["0 9 5"]}, r"user 0 has item 5 in train\.txt and in test\.txt \(1 such"),
        ({"train.txt": ["0 99999999999999999999"]}, "ids must be below 2"),
        ({"train.txt": ["0"], "test.txt": []}, "no items in train.txt, test.txt"),
    ],
)
def test_wrong_lines_are_refused(files, message, tmp_path):
    path = write_files(tmp_path / "bad", {**FILES, **files})
    with pytest.raises(DataError, match=message):
        LightGCN(path).read()


def test_missing_files_are_named(folder, tmp_path):
    (folder / "test.txt").unlink()
    with pytest.raises(DataError, match=r"missing test\.txt; the layout of LightGCN has"):
        LightGCN(folder).read()
    with pytest.raises(DataError, match=r"needs `path`.*github\.com"):
        LightGCN(None).read()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="nothing to add"):
        LightGCN(folder).read_update(tmp_path / "empty", {"user_id": pa.int64()})


def test_gowalla_has_its_published_counts(data_dir, tmp_path):
    """The counts of table 2 in the paper: https://arxiv.org/abs/2002.02126."""
    for part in ("train", "test"):
        pairs = pd.read_parquet(data_dir / "gowalla" / f"{part}.parquet")
        items = pairs.groupby("user_id")["item_id"].agg(lambda ids: " ".join(map(str, ids)))
        lines = [f"{user} {rest}" for user, rest in items.items()]
        (tmp_path / f"{part}.txt").write_text("\n".join(lines) + "\n")
    assert detect_source(tmp_path) == ("lightgcn", tmp_path)
    tables = LightGCN(tmp_path).read()
    assert [len(table) for table in tables] == [1_027_370, 29_858, 40_981]
