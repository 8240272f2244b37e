"""Each layout is recognised by what is in its files, and never read as another."""

from __future__ import annotations

from itertools import combinations

import pytest

from tests.workflows.conftest import ML_1M, ML_100K
from tests.workflows.sources.layouts.conftest import (
    ATOMIC,
    CSV,
    ML_10M,
    REVIEWS_2018,
    plain,
    write_lines,
)
from twotower.workflows.errors import DataError
from twotower.workflows.ingest import SOURCES, detect_source, detectable

LAYOUTS = {
    "ml-1m": ML_1M,
    "ml-100k": ML_100K,
    "ml-10m": ML_10M,
    "ml-latest": CSV,
    "amazon": {"reviews_A.json": REVIEWS_2018},
    "atomic": ATOMIC,
    "lightgcn": {"train.txt": ["0 5 7", "1 5"], "test.txt": ["0 9"]},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognised_alone(name, tmp_path):
    folder = write_lines(tmp_path / "data", LAYOUTS[name])
    assert detect_source(folder) == (name, folder)


@pytest.mark.parametrize("missing", [file for files in LAYOUTS.values() for file in files])
def test_a_layout_without_one_file_is_never_another(missing, tmp_path):
    name = next(name for name, files in LAYOUTS.items() if missing in files)
    rest = {file: lines for file, lines in LAYOUTS[name].items() if file != missing}
    found = detect_source(write_lines(tmp_path / "data", rest))
    assert found is None or found[0] == name


@pytest.mark.parametrize("one, other", combinations(sorted(LAYOUTS.keys() - {"ml-10m"}), 2))
def test_two_layouts_in_one_folder_are_refused(one, other, tmp_path):
    folder = write_lines(tmp_path / "data", {**LAYOUTS[one], **LAYOUTS[other]})
    with pytest.raises(DataError, match="give each data set a folder of its own"):
        detect_source(folder)


@pytest.mark.parametrize(
    "files",
    [
        {"ratings.csv": ["user,item,rating", "1,2,3"]},
        {"ratings.csv": ["userId;movieId;rating;timestamp", "1;2;3;4"]},
        {"train.txt": ["1 5", "1 6"]},
        {"x.inter": ["user_id item_id", "1 2"]},
        {"orders.csv": ["customer,sku", "a,b"]},
        {"tags.dat": ["1::31::funny::838985050"]},
    ],
)
def test_own_files_are_no_layout(files, tmp_path):
    assert detect_source(write_lines(tmp_path / "data", files)) is None


def test_half_stars_tell_10m_from_a_damaged_1m(tmp_path):
    files = {name: ML_10M[name] for name in ("ratings.dat", "movies.dat")}
    assert detect_source(write_lines(tmp_path / "half", files))[0] == "ml-10m"
    files = {name: ML_1M[name] for name in ("ratings.dat", "movies.dat")}
    assert detect_source(write_lines(tmp_path / "whole", files))[0] == "ml-1m"


@pytest.mark.parametrize("name", ["ml-10m", "ml-latest", "amazon", "atomic"])
def test_line_ends_of_windows_and_a_byte_order_mark_change_nothing(name, tmp_path):
    folder = write_lines(tmp_path / "data", LAYOUTS[name])
    expected = SOURCES[name](folder).read()
    for file in folder.iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert detect_source(folder) == (name, folder)
    assert [plain(table) for table in SOURCES[name](folder).read()] == list(map(plain, expected))


def test_messages_can_list_all_layouts():
    for words in ("MovieLens-10M", "latest", "Amazon", "RecBole", "LightGCN"):
        assert words in detectable()
