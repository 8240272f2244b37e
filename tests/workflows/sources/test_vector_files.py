"""Vectors in .npy files: joined by their ids, in an update, and what is refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from twotower.workflows.errors import DataError
from twotower.workflows.ids import Ids
from twotower.workflows.sources.vector_files import VectorFiles, read_file, with_vectors
from twotower.workflows.sources.wanted import Wanted
from twotower.workflows.tables import Tables
from twotower.workflows.vectors import as_column


def write(folder, ids, vectors, name="image"):
    np.save(folder / f"{name}.npy", np.asarray(vectors))
    if isinstance(ids, list):
        (folder / f"{name}.ids.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    else:
        np.save(folder / f"{name}.ids.npy", ids)
    return folder / f"{name}.npy"


def test_vectors_of_a_file_are_joined_by_the_ids(tmp_path):
    path = write(tmp_path, ["c", "x", "a"], [[1, 2], [3, 4], [5, 6]])
    ids, vectors = read_file(path, 2, pa.string(), "item_id")
    assert ids.to_pylist() == ["c", "x", "a"] and vectors.dtype == np.float32
    known = pa.chunked_array([pa.array(["a", "b", "c"]).dictionary_encode()])
    table = with_vectors(
        pa.table({"item_id": known, "title": ["A", "B", "C"]}), "item_id", "image", ids, vectors
    )
    assert table["item_id"].to_pylist() == ["a", "b", "c", "x"]
    assert table["title"].to_pylist() == ["A", "B", "C", None]
    assert table["image"].to_pylist() == [[5, 6], None, [1, 2], [3, 4]]
    assert Ids.of(table["item_id"]).texts.to_pylist() == ["a", "b", "c", "x"]


@pytest.mark.parametrize(
    ("ids", "vectors", "kind", "message"),
    [
        (np.arange(2), [[1.0]] * 2, pa.int64(), "vectors of 1 numbers, but the settings say 2"),
        (np.arange(2), [1.0], pa.int64(), r"expected an array of numbers \[rows, 2\], found float"),
        (np.arange(2), [["a", "b"]], pa.int64(), r"expected an array of numbers"),
        (np.arange(3), [[1.0, 2]] * 2, pa.int64(), "2 vectors, but 3 ids beside it"),
        (np.array([4, 4]), [[1.0, 2]] * 2, pa.int64(), "row 2: item_id 4 has a vector already"),
        (["a", "b"], [[1.0, 2]] * 2, pa.int64(), "the ids of the data are whole numbers"),
        (np.arange(2), [[1.0, 2], [np.nan, 1]], pa.int64(), "row 2, item_id 1: the vector in im"),
    ],
)
def test_wrong_files_are_refused(ids, vectors, kind, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_file(write(tmp_path, ids, vectors), 2, kind, "item_id")


def test_a_file_that_is_missing_is_named(tmp_path):
    np.save(tmp_path / "image.npy", np.eye(2))
    with pytest.raises(DataError, match=r"write them to image\.ids\.npy, or one per line to image"):
        read_file(tmp_path / "image.npy", 2, pa.int64(), "item_id")
    with pytest.raises(DataError, match=r"text\.npy: no such file \(ingest\.vectors\)"):
        read_file(tmp_path / "text.npy", 2, pa.int64(), "item_id")
    (tmp_path / "text.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"text\.npy: not a readable \.npy file"):
        read_file(tmp_path / "text.npy", 2, pa.int64(), "item_id")


def test_an_update_may_bring_a_file_alone_or_none(tmp_path):
    path = write(tmp_path, np.array([3, 1]), [[1.0, 2], [3, 4]])
    log = pa.table({"user_id": [0], "item_id": [1]})
    items = pa.table({"item_id": [1], "title": ["A"], "image": as_column(np.float32([[9, 9]]))})
    before, types = Tables(log, log.select(["user_id"]), items), {"item_id": pa.int64()}
    wanted = Wanted(items=("title", "image"), vectors={"image": 2})
    files = VectorFiles({"image": path}, tmp_path, wanted)
    assert files.sides == {"items": ["image"]}
    alone = files.add_to_update({}, before, types)["items"]
    assert alone.to_pydict() == {
        "item_id": [3, 1],
        "title": [None, None],
        "image": [[1, 2], [3, 4]],
    }
    none = VectorFiles({"image": path}, tmp_path / "elsewhere", wanted)
    assert none.add_to_update({}, before, types) == {}
    rows = none.add_to_update({"items": items.drop(["image"])}, before, types)["items"]
    assert rows["image"].to_pylist() == [None]
