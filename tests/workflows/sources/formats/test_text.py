"""CSV and JSON lines: what is recognised, the types of columns, and wrong lines."""

from __future__ import annotations

import gzip
import zipfile

import pyarrow as pa
import pytest

from twotower.workflows.errors import DataError
from twotower.workflows.sources.formats.options import ReadOptions
from twotower.workflows.sources.formats.table import open_table


def opened(path, data: bytes | str, **options):
    """The columns of a file, and the messages without its path."""
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    messages: list[str] = []
    table = open_table(path, ReadOptions(**options), on_message=messages.append)
    columns = {name: table.column(name).values.to_pylist() for name in table.names}
    return columns, [message.replace(str(path), path.name) for message in messages]


@pytest.mark.parametrize(
    "name, text, columns, said",
    [
        (
            "a.csv",
            "customer;sku;price\n00042;SKU-1;1.5\n7;SKU-2;\n",
            {"customer": ["00042", "7"], "sku": ["SKU-1", "SKU-2"], "price": [1.5, None]},
            "separator ';', header, UTF-8",
        ),
        (
            "a.tsv",
            "1\t2\t3.5\n4\t5\t6\n",
            {"column_1": [1, 4], "column_2": [2, 5], "column_3": [3.5, 6.0]},
            "separator tab, no header (columns column_1, column_2, column_3), UTF-8",
        ),
        (
            "ratings.dat",
            "1::20::5\n2::30::4\n",
            {"column_1": [1, 2], "column_2": [20, 30], "column_3": [5, 4]},
            "separator '::', no header (columns column_1, column_2, column_3), UTF-8",
        ),
        (
            "a.txt",
            "user_id|tags\n1|a,b\n2|c\n",
            {"user_id": [1, 2], "tags": ["a,b", "c"]},
            "separator '|', header, UTF-8",
        ),
        (
            "a.csv",
            "user_id\nC1\nC2\n",
            {"user_id": ["C1", "C2"]},
            "separator ',', header, UTF-8",
        ),
        (  # words name the column of ids
            "a.csv",
            "item_id,brand\nSKU-1,a\nSKU-2,b\n",
            {"item_id": ["SKU-1", "SKU-2"], "brand": ["a", "b"]},
            "separator ',', header, UTF-8",
        ),
        (  # "kto" is no word that is known, but codes have digits
            "a.csv",
            "kto,co\nC1,a\nC2,b\nC3,a\n",
            {"kto": ["C1", "C2", "C3"], "co": ["a", "b", "a"]},
            "separator ',', header, UTF-8",
        ),
        (
            "a.csv",
            "user item\n1 2\n",
            {"user": [1], "item": [2]},
            "separator space, header, UTF-8",
        ),
        (
            "a.csv",
            '\r\nuser_id,title\r\n1,"a\nb"\r\n\r\n2,"c ""x"", d"\r\n',
            {"user_id": [1, 2], "title": ["a\nb", 'c "x", d']},
            "separator ',', header, UTF-8",
        ),
        (
            "a.csv",
            b"\xef\xbb\xbfuser_id,title\n1,caf\xc3\xa9\n",
            {"user_id": [1], "title": ["café"]},
            "separator ',', header, UTF-8",
        ),
        (
            "a.csv",
            "user_id,title\n1,café\n".encode("latin-1"),
            {"user_id": [1], "title": ["café"]},
            "separator ',', header, Windows-1252",
        ),
        (
            "a.csv",
            "user_id,title\n1,café\n".encode("utf-16"),
            {"user_id": [1], "title": ["café"]},
            "separator ',', header, UTF-16",
        ),
        (
            "a.csv.gz",
            gzip.compress(b"user_id,item_id\n1,2\n", mtime=0),
            {"user_id": [1], "item_id": [2]},
            "separator ',', header, UTF-8",
        ),
    ],
)
def test_separator_header_and_encoding_are_found_and_said(name, text, columns, said, tmp_path):
    assert opened(tmp_path / name, text) == (columns, [f"{name}: read as CSV: {said}"])


@pytest.mark.parametrize(
    "values, expected",
    [
        (["5", "", "-6"], [5, None, -6]),
        (["00042", "7"], ["00042", "7"]),
        (["+5", "7"], ["+5", "7"]),
        (["18446744073709551616", "1"], ["18446744073709551616", "1"]),
        ([str(2**60 + 1), "1"], [2**60 + 1, 1]),
        (["1.5", "2", "1e-05", ".5"], [1.5, 2.0, 1e-05, 0.5]),
        (["12e5", "1"], ["12e5", "1"]),
        (["1.5", "NaN"], [1.5, None]),
        (["NA", "NULL"], ["NA", "NULL"]),
        (["true", "false"], ["true", "false"]),
        ([" 5", "6 "], [5, 6]),
        (["1", "x"], ["1", "x"]),
        (["", ""], [None, None]),
    ],
)
def test_a_column_has_the_type_that_all_values_allow(values, expected, tmp_path):
    text = "user_id,x\n" + "".join(f"1,{value}\n" for value in values)
    assert opened(tmp_path / "a.csv", text)[0]["x"] == expected


def test_options_win_over_what_would_be_found(tmp_path):
    columns, _ = opened(
        tmp_path / "a.csv",
        "1;2,5\n3;4,5\n",
        separator=";",
        column_names=("user_id", "price"),
        types={"user_id": pa.string()},
    )
    assert columns == {"user_id": ["1", "3"], "price": ["2,5", "4,5"]}
    header, _ = opened(tmp_path / "a.csv", "user,item\nC1,S1\n", header=False)
    assert header == {"column_1": ["user", "C1"], "column_2": ["item", "S1"]}


@pytest.mark.parametrize(
    "text, options, message",
    [
        ("user_id,t\n1,x\n2\n", {}, r"a\.csv, line 3: 1 fields in '2'; expected 2, separated by"),
        ("C1,S1\nC2,S2\n", {}, r"line 1: 'C1, S1' may be names of columns or values; set header"),
        ("1;2,5\n3;4,5\n", {}, r"line 1: '1;2,5'; separated by ',' or ';'\? Set the separator"),
        ('user_id,t\n1,"abc\n2,d\n', {}, r"line 2: unexpected end of data; is a quote not closed"),
        ("user_id,t\n1,x\0\n", {}, r"line 2, character 4: a NUL byte, which is not text"),
        (
            "user_id,t\n1,\xe9\n".encode("latin-1"),
            {"encoding": "utf-8"},
            r"line 2, character 3: byte 0xe9 is not UTF-8; set another encoding",
        ),
        (b"user_id,t\n1,\x81\n", {}, r"line 2, character 3: byte 0x81 is not Windows-1252; save"),
        ("user_id,t\n1,x\n", {"encoding": "utf-9"}, r"encoding: 'utf-9' is unknown"),
        (
            "user_id,t\n1,2\n\n3,x\n",
            {"types": {"t": pa.int64()}},
            r"line 4, column t: 'x'; expected int64",
        ),
        ("", {}, r"a\.csv: no rows"),
        ("user_id,t\n", {}, r"a\.csv: no rows"),
        ("1,2\n", {"column_names": ("a", "b", "c")}, r"2 fields, but column_names has 3 names"),
    ],
)
def test_a_message_names_the_line_and_what_to_do(text, options, message, tmp_path):
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "a.csv", text, **options)


def test_a_damaged_archive_is_named(tmp_path):
    whole = gzip.compress(b"user_id,item_id\n1,2\n" * 100)
    with pytest.raises(DataError, match=r"a\.csv\.gz: cannot be read: Compressed file ended"):
        opened(tmp_path / "a.csv.gz", whole[:-12])
    with pytest.raises(DataError, match=r"a\.zip: not a readable zip"):
        opened(tmp_path / "a.zip", b"PK\3\4")


def test_a_separator_may_lie_across_the_blocks_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("twotower.workflows.sources.formats.encoding._BLOCK", 5)
    columns, _ = opened(tmp_path / "a.dat", "1::20::5\n2::30::4\n22::330::44\n")
    assert list(columns.values()) == [[1, 2, 22], [20, 30, 330], [5, 4, 44]]


def test_files_in_a_folder_or_zip_are_one_table(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("x/part.10.csv", "item_id,user_id\n5,6\n")
        archive.writestr("x/part.2.csv", "user_id,item_id\n1,x\n")
        archive.writestr("x/_tmp/part.3.csv", "?")
        archive.writestr("x/part.11.csv", "")
    zipfile.ZipFile(tmp_path / "z.zip").extractall(tmp_path)
    for path in ("z.zip", "x", "x/*.csv"):
        table = open_table(tmp_path / path)
        assert table.column("user_id").values.to_pylist() == [1, 6]
        assert table.column("item_id").values.to_pylist() == ["x", "5"]
        assert table.rows.place(1).endswith("part.10.csv, line 2")
    assert open_table(tmp_path / "z.zip" / "x" / "part.10.csv").num_rows == 1
    (tmp_path / "x" / "a.json").touch()
    with pytest.raises(DataError, match=r"files of several formats, such as .*a\.json \(JSON lin"):
        open_table(tmp_path / "x")
    assert open_table(tmp_path / "x", ReadOptions(format="csv")).num_rows == 2


def test_json_lines_keep_their_types(tmp_path):
    text = (
        '{"u": 1, "i": "00042", "when": "2020-01-01", "tags": ["a"], "x": {"y": 1}}\n\n'
        '{"u": 18446744073709551, "i": "b", "price": 2.5}\n'
    )
    (tmp_path / "a.jsonl").write_text(text)
    table = open_table(tmp_path / "a.jsonl")
    read = {name: table.column(name).values.to_pylist() for name in table.names if name != "x"}
    assert read == {
        "u": [1, 18446744073709551],
        "i": ["00042", "b"],
        "when": ["2020-01-01", None],
        "tags": [["a"], None],
        "price": [None, 2.5],
    }
    assert table.rows.place(1).endswith("a.jsonl, line 3")
    with pytest.raises(DataError, match=r"a\.jsonl, column x: type struct<y: int64> is not supp"):
        table.column("x")


def test_json_blocks_with_other_keys_or_types_are_one_table(tmp_path, monkeypatch):
    monkeypatch.setattr("twotower.workflows.sources.formats.json_lines._BLOCK", 30)
    rows = ['{"u": 1, "p": null}', '{"u": 2, "p": 1}', '{"u": 3, "p": 1.5, "q": "x"}', '{"u": 4}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    table = open_table(tmp_path / "a.jsonl")
    read = {name: table.column(name).values.to_pylist() for name in table.names}
    assert read == {
        "u": [1, 2, 3, 4],
        "p": [None, 1.0, 1.5, None],
        "q": [None, None, "x", None],
    }
    assert [table.rows.place(row)[-6:] for row in range(4)] == [f"line {n}" for n in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"u": 1}\n[1]\n', r"a\.json, line 2: '\[1\]'; expected one JSON object per line"),
        ('{"u": 1}\n{"u": }\n', r"a\.json, line 2: Expecting value"),
        ('{"u": 1}\n{"u": "x"}\n', r"a\.json, column u: the values, such as 1 and 'x', have no"),
    ],
)
def test_what_is_no_json_line_is_named(text, message, tmp_path):
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "a.json", text)


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "a.csv").write_text("user_id,item_id\n1,2\n")
    table = open_table(tmp_path / "a.csv")
    assert table.num_rows == 1
    assert [each.name for each in tmp_path.iterdir()] == ["a.csv"]


def test_columns_that_are_not_wanted_are_listed_but_not_stored(tmp_path):
    (tmp_path / "a.csv").write_text("user_id,item_id,review\n1,2,long\n")
    table = open_table(tmp_path / "a.csv", ReadOptions(wanted=frozenset({"user_id"})))
    assert table.names == ["user_id", "item_id", "review"]
    assert table.column("user_id").values.to_pylist() == [1]


@pytest.mark.parametrize(
    "start, what",
    [
        (b"PK\x03\x04\x14", "an Excel workbook or a zip; save the sheet as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1", "an Excel workbook; save the sheet as CSV"),
        (b"\x89PNG\r\n\x1a\n", "an image, not a table"),
        (b"\x1f\x8b\x08", "compressed with gzip; add .gz to its name"),
        (b"PAR1\x15", "a parquet file; name it .parquet"),
    ],
)
def test_a_file_of_another_kind_with_the_name_of_a_text_file_is_named(start, what, tmp_path):
    for name, options in (("a.csv", {}), ("a.xlsx", {"format": "csv", "encoding": "cp1252"})):
        with pytest.raises(DataError, match=f"{name}: this is {what}"):
            opened(tmp_path / name, start + b"\n1,2\n" * 9, **options)


def test_columns_of_one_name_are_no_reason_to_take_the_header_for_values(tmp_path):
    rows = "u1,i1,2024-05-01,01/05/2024\nu2,i2,2024-05-02,02/05/2024\n"
    with pytest.raises(DataError, match="line 1: 2 columns are named date; give each a name of"):
        opened(tmp_path / "a.csv", f"user,item,date,date\n{rows}")
    found, _ = opened(tmp_path / "b.csv", f"user,item,date,date\n{rows}", header=False)
    assert found["column_1"] == ["user", "u1", "u2"]
    texts, _ = opened(tmp_path / "c.csv", "a,a,b\nb,c,d\n")  # nothing says that these are names
    assert texts["column_1"] == ["a", "b"]


def test_columns_without_a_name_do_not_hide_the_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(";user;price;;\n0;u1;1.5;;\n1;u2;2.5;;\n")
    table = open_table(path)
    assert table.names == ["", "user", "price"] and table.unusable == {"": "it has no name"}
    assert table.column("price").values.to_pylist() == [1.5, 2.5]


def test_nested_objects_are_told_from_the_columns_that_can_be_used(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"user": 1, "meta": {"page": 1}, "tags": ["a"], "more": [{"x": 1}]}\n' * 2)
    table = open_table(path)
    assert set(table.unusable) == {"meta", "more"}
    assert table.unusable["meta"] == "its values are of type struct<page: int64>"
    assert table.column("user").values.to_pylist() == [1, 1]
