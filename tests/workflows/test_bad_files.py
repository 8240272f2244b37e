"""Every kind of bad file: the message names the place and the value, and nothing is written."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from twotower.workflows.errors import DataError
from twotower.workflows.ingest import IngestConfig, ingest
from twotower.workflows.sources.files.config import FilesConfig
from twotower.workflows.sources.wanted import Wanted
from twotower.workflows.split import SplitConfig, split

LOG = pd.DataFrame({"user_id": [1, 2, 2], "item_id": [10, 10, 11], "price": [1, 2, 3]})


def line(name: str, number: int, text: str):
    """Replace line `number` (from 1; one past the end appends)."""

    def change(folder: Path) -> None:
        lines = (folder / name).read_text("latin-1").split("\n")
        lines[number - 1 : number] = [text] if number <= len(lines) - 1 else [text, ""]
        (folder / name).write_text("\n".join(lines), "latin-1")

    return change


def recode(name: str, encoding: str):
    def change(folder: Path) -> None:
        (folder / name).write_text((folder / name).read_text("latin-1"), encoding)

    return change


def remove(*names: str):
    return lambda folder: [(folder / name).unlink() for name in names]


def empty(name: str):
    return lambda folder: (folder / name).write_bytes(b"")


def zipped(damage):
    """Pack the folder as ml-1m.zip, damage its bytes, and leave only the zip."""

    def change(folder: Path) -> None:
        files = {file.name: file.read_bytes() for file in folder.iterdir()}
        remove(*files)(folder)
        path = folder / "ml-1m.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(f"ml-1m/{name}", data)
        path.write_bytes(damage(path.read_bytes()))

    return change


def log(**columns):
    """Replace columns of the interactions; None removes one."""

    def change(folder: Path) -> None:
        rows = LOG.assign(**columns)
        rows = rows.drop(columns=[name for name, values in columns.items() if values is None])
        rows.to_parquet(folder / "log.parquet")

    return change


def users(ids: list[int]):
    return lambda folder: pd.DataFrame({"user_id": ids}).to_parquet(folder / "users.parquet")


def listed(user_id: list, item_id: list, part: list):
    frame = pd.DataFrame({"user_id": user_id, "item_id": item_id, "part": part})
    return lambda folder: frame.to_parquet(folder / "split.parquet")


BAD = {
    "too few fields": ("ml-1m", line("ratings.dat", 2, "1::2::5"), "ratings.dat, line 2: 3 field"),
    "too many fields": (
        "ml-1m",
        line("movies.dat", 3, "9::A::B::C"),
        "movies.dat, line 3: 4 field(s) in '9::A::B::C'; item_id, title, genres",
    ),
    "one separator where two are due": (
        "ml-1m",
        line("ratings.dat", 4, "8::2:3::978300020"),
        "ratings.dat, line 4: 3 field(s) in '8::2:3::978300020'",
    ),
    "a word for a number": (
        "ml-1m",
        line("ratings.dat", 3, "1::5::good::978300005"),
        "ratings.dat, line 3, rating: 'good'; whole number",
    ),
    "an age that is no number": (
        "ml-1m",
        line("users.dat", 2, "1::M::young::10::98765"),
        "users.dat, line 2, age: 'young'; whole number",
    ),
    "a gender that is none of the codes": (
        "ml-1m",
        line("users.dat", 3, "8::X::56::0::02138"),
        "users.dat, line 3, gender: 'X'; F or M",
    ),
    "an id too long": (
        "ml-1m",
        line("ratings.dat", 1, "99999999999999999999::5::4::978300000"),
        "ratings.dat, line 1, user_id: '99999999999999999999'",
    ),
    "rating above the range": (
        "ml-1m",
        line("ratings.dat", 4, "8::2::6::978300020"),
        "ratings.dat, line 4, rating: 6; 1 to 5",
    ),
    "rating of 0": (
        "ml-100k",
        line("u.data", 2, "2\t1\t0\t881250950"),
        "u.data, line 2, rating: 0; 1 to 5",
    ),
    "negative timestamp": (
        "ml-1m",
        line("ratings.dat", 1, "3::5::4::-1"),
        "ratings.dat, line 1, timestamp: -1",
    ),
    "unknown user": (
        "ml-1m",
        line("ratings.dat", 2, "77::2::5::978300010"),
        "ratings.dat, line 2, user_id: 77; users.dat",
    ),
    "unknown item": (
        "ml-100k",
        line("u.data", 4, "2\t66\t3\t881250950"),
        "u.data, line 4, item_id: 66; u.item",
    ),
    "a pair rated twice": (
        "ml-1m",
        line("ratings.dat", 5, "1::2::1::978300099"),
        "ratings.dat, line 5: user 1; item 2; line 2",
    ),
    "a user listed twice": (
        "ml-1m",
        line("users.dat", 4, "3::M::1::1::1"),
        "users.dat, line 4, user_id: 3; line 1",
    ),
    "a film listed twice": (
        "ml-100k",
        line("u.item", 4, "2|again||||0|1|0"),
        "u.item, line 4, item_id: 2; line 2",
    ),
    "a genre flag that is none": (
        "ml-100k",
        line("u.item", 2, "2|unknown||||2|0|0"),
        "u.item, line 2, unknown: '2'; 0 or 1",
    ),
    "blank line": ("ml-1m", line("ratings.dat", 3, ""), "ratings.dat, line 3: blank line"),
    "empty file": ("ml-1m", empty("ratings.dat"), "ratings.dat: the file is empty"),
    "missing file": (
        "ml-1m",
        remove("users.dat", "movies.dat"),
        "missing users.dat, movies.dat; official ml-1m layout",
    ),
    "nothing there": (
        "ml-100k",
        remove("u.data", "u.user", "u.item", "u.genre"),
        "no ml-100k data here; u.data, u.user, u.item, u.genre",
    ),
    "UTF-16": ("ml-1m", recode("ratings.dat", "utf-16"), "ratings.dat, line 1; UTF-16; latin-1"),
    "UTF-8 with byte order mark": (
        "ml-1m",
        recode("movies.dat", "utf-8-sig"),
        "movies.dat, line 1; byte order mark of UTF-8; latin-1",
    ),
    "UTF-8": ("ml-1m", recode("movies.dat", "utf-8"), "movies.dat, line 1: 'É'; UTF-8; latin-1"),
    "NUL byte": (
        "ml-100k",
        line("u.user", 2, "1|24|M|oth\0er|85711"),
        "u.user, line 2: NUL byte; latin-1",
    ),
    "truncated zip": (
        "ml-1m",
        zipped(lambda data: data[: len(data) // 2]),
        "ml-1m.zip: truncated or damaged zip; download it again",
    ),
    "zip with a flipped byte": (
        "ml-1m",
        zipped(lambda data: data.replace(b"978300010", b"978300011")),
        "ml-1m.zip: truncated or damaged zip; ml-1m/ratings.dat",
    ),
    "ids in the log that the table has as numbers": (
        "files",
        log(user_id=["ann", "bob", "bob"]),
        "users.parquet, row 1, column user_id: 1 (int64); in the other data; text; as string",
    ),
    "an id with the character NUL": (
        "files",
        log(item_id=["a", "b", "a\0"]),
        "log.parquet, row 3, column item_id: a text with the character NUL; Remove",
    ),
    "an id that ends lists": (
        "files",
        log(item_id=["a", "\uffff", "b"]),
        "log.parquet, row 2, column item_id: a text with U+FFFF; Remove",
    ),
    "an id that is too long": (
        "files",
        log(item_id=["a" * 1024, "é" * 512 + "e", "b"]),
        "log.parquet, row 2, column item_id: a text of more than 1,024 bytes; hash",
    ),
    "an integer that ends lists": (
        "files",
        log(item_id=[1, -(2**63), 3]),
        "log.parquet, row 2, column item_id: -9223372036854775808; another number",
    ),
    "an unsigned integer that ends lists": (
        "files",
        log(item_id=np.array([1, 2, 2**64 - 1], np.uint64)),
        "log.parquet, row 3, column item_id: 18446744073709551615; another number",
    ),
    "ids that are true or false": (
        "files",
        log(item_id=[True, False, True]),
        "log.parquet, row 1, column item_id: 1 (bool); whole numbers or text",
    ),
    "ids that are times": (
        "files",
        log(item_id=pd.to_datetime(["2020-01-01"] * 3)),
        "log.parquet, row 1, column item_id: 1577836800 (timestamp; whole numbers or text",
    ),
    "ids that are fractions": (
        "files",
        log(item_id=[1.0, 2.5, 3.0]),
        "log.parquet, row 2, column item_id: 2.5 (double); whole numbers",
    ),
    "no id at all": (
        "files",
        log(item_id=pd.array([None, None, None], dtype="Int64")),
        "log.parquet, column item_id: no value in any row; expected item_id",
    ),
    "missing column": (
        "files",
        log(price=None),
        "no column price for the items; log.parquet has user_id, item_id; columns: {price:",
    ),
    "a column type we do not know": (
        "files",
        log(price=pd.to_timedelta([1, 2, 3], unit="s")),
        "log.parquet, column price: type duration[ns] is not supported",
    ),
    "a pair twice": (
        "files",
        log(item_id=[10, 11, 11]),
        "log.parquet, row 3: user_id 2 and item_id 11; row 2; keep_last",
    ),
    "not parquet": (
        "files",
        lambda folder: (folder / "log.parquet").write_text("user_id,item_id\n1,2\n"),
        "log.parquet: not a readable parquet file",
    ),
    "parquet cut short": (
        "files",
        lambda f: (f / "log.parquet").write_bytes((f / "log.parquet").read_bytes()[:-40]),
        "log.parquet: not a readable parquet file",
    ),
    "no such parquet file": ("files", remove("log.parquet"), "log.parquet: no data file"),
    "no rows": (
        "files",
        lambda folder: LOG[:0].to_parquet(folder / "log.parquet"),
        "log.parquet: no rows",
    ),
    "split: a pair that is no positive": (
        "split",
        listed([1, 2], [10, 99], ["train", "test"]),
        "split.parquet, row 2; user_id 2, item_id 99; not among the positives; 1 such row",
    ),
    "split: a pair twice": (
        "split",
        listed([1, 2, 1], [10, 11, 10], ["train", "test", "test"]),
        "split.parquet, row 3; user_id 1, item_id 10; occurs earlier",
    ),
    "split: an unknown part": (
        "split",
        listed([1, 2], [10, 11], ["train", "dev"]),
        "split.parquet, row 2; 'dev'; train, valid, test",
    ),
    "split: no such file": ("split", lambda folder: None, "split.parquet: no such split file"),
    "split: no part": (
        "split",
        lambda folder: LOG.to_parquet(folder / "split.parquet"),
        "split.parquet: no column part; user_id, item_id, price",
    ),
    "split: ids of another kind": (
        "split",
        listed(["1", "2"], [10, 11], ["train", "test"]),
        "split.parquet, column user_id: '1' is no id of this run; needs the ids of the data",
    ),
    "split: null ids": (
        "split",
        listed([1, None], [10, 11], ["train", "test"]),
        "split.parquet, column user_id: 1.0 is no id of this run; whole numbers",
    ),
}


def _folder(request, kind: str, tmp_path: Path) -> Path:
    if kind.startswith("ml-"):
        return request.getfixturevalue(kind.replace("-", "_"))
    LOG.to_parquet(tmp_path / "log.parquet")
    pd.DataFrame({"user_id": [1, 2]}).to_parquet(tmp_path / "users.parquet")
    return tmp_path


def _use(kind: str, folder: Path, out: Path) -> None:
    if kind == "split":
        split(LOG, SplitConfig(method="file", path=folder / "split.parquet"))
        return
    parquet = FilesConfig(
        interactions="log.parquet",
        users="users.parquet",
        duplicates="error",
        differing="keep_last",
    )
    config = IngestConfig(source=kind, path=folder, files=parquet)
    ingest(config, out, wanted=Wanted(items=("price",)))


@pytest.mark.parametrize("name", BAD)
def test_bad_file(name, request, tmp_path):
    kind, change, expected = BAD[name]
    folder = _folder(request, kind, tmp_path)
    out = tmp_path / "out"
    if kind != "split":
        _use(kind, folder, tmp_path / "good")  # what is broken below was whole before
    change(folder)
    with pytest.raises(DataError) as raised:
        _use(kind, folder, out)
    message = str(raised.value)
    assert [part for part in expected.split("; ") if part not in message] == [], message
    assert "\n" not in message
    assert list(out.glob("**/*.parquet")) == []
