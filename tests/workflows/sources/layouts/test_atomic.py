"""RecBole's atomic files: types from the header, sequences as lists."""

from __future__ import annotations

import pytest

from tests.workflows.sources.layouts.conftest import ATOMIC, plain, write_lines
from twotower.workflows.errors import DataError
from twotower.workflows.ingest import detect_source
from twotower.workflows.sources.layouts.atomic import Atomic


def test_columns_have_the_types_of_the_header(tmp_path):
    folder = write_lines(tmp_path / "toy", ATOMIC)
    assert detect_source(folder) == ("atomic", folder)
    tables = Atomic(folder).read()
    assert plain(tables.interactions) == {
        "user_id": [7, 7, 8],
        "item_id": ["a1", "a2", "a1"],
        "rating": [4.0, 1.5, 5.0],
        "timestamp": [978300760, 978302000, 978300762],
    }
    assert plain(tables.users) == {"user_id": [7, 8], "age": [25, None], "gender": ["F", "M"]}
    assert plain(tables.items) == {
        "item_id": ["a1", "a2"],
        "genre": [["Action", "Comedy"], []],
        "price": [1.5, None],
        "vector": [[0.25, 1.0], []],
    }


def test_interactions_alone_are_enough(tmp_path):
    lines = ["user_id:token\titem_id:token", "1\t5", "2\t5"]
    tables = Atomic(write_lines(tmp_path / "toy", {"toy.inter": lines})).read()
    assert plain(tables.interactions) == {"user_id": [1, 2], "item_id": [5, 5]}
    assert plain(tables.items) == {"item_id": [5]}


def test_the_first_columns_of_users_and_items_name_the_ids(tmp_path):
    files = {
        "fm.inter": ["uid:token\tartist_id:token\tweight:float\ttags:token_seq", "1\t5\t13.5\ta b"],
        "fm.user": ["uid:token", "1"],
        "fm.item": ["artist_id:token\tname:token", "5\tKing's X"],
    }
    tables = Atomic(write_lines(tmp_path / "fm", files)).read()
    assert plain(tables.interactions) == {"user_id": [1], "item_id": [5], "weight": [13.5]}
    assert plain(tables.items) == {"item_id": [5], "name": ["King's X"]}


@pytest.mark.parametrize(
    "files, message",
    [
        ({"toy.inter": None}, "no file with interactions; expected RecBole's atomic files"),
        ({"b.inter": ATOMIC["toy.inter"]}, r"2 files end in \.inter: b\.inter, toy\.inter"),
        ({"toy.item": ["item_id,genre", "a1,b"]}, r"toy\.item, line 1: 'item_id,genre'; expected"),
        (
            {"toy.inter": ["u:token\ti:token", "1\t2"], "toy.user": None},
            r"no user_id:token and no first column of the users",
        ),
        (
            {"toy.item": ["item_id:token\tprice:float", "a1\tcheap"]},
            r"toy\.item, column price:float: .*cheap",
        ),
        ({"toy.user": ["user_id:token", "x7"]}, "user_id: not of the kind as in the interactions"),
        ({"toy.user": ["user_id:token\tage:token", "7"]}, r"toy\.user: cannot be read: .*columns"),
    ],
)
def test_damaged_files_are_refused(files, message, tmp_path):
    given = {name: lines for name, lines in {**ATOMIC, **files}.items() if lines is not None}
    folder = write_lines(tmp_path / "toy", given)
    assert detect_source(folder) == ("atomic", folder)
    with pytest.raises(DataError, match=message):
        Atomic(folder).read()
