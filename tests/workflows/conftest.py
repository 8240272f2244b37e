"""Tiny data sets of made-up rows in the official layouts."""

from __future__ import annotations

from pathlib import Path

import pytest

ML_1M = {
    "users.dat": ["3::F::25::4::10001", "1::M::1::10::98765-4321", "8::M::56::0::02138"],
    "movies.dat": [
        "5::Été, L' (1931)::Drama|Romance",
        "2::Rocket: 2001 (1968) (1987)::Sci-Fi",
        "9::Nameless::Comedy",
    ],
    "ratings.dat": [
        "3::5::4::978300000",
        "1::2::5::978300010",
        "1::5::1::978300005",
        "8::2::3::978300020",
    ],
}
ML_100K = {
    "u.user": ["2|33|F|writer|T8H1N", "1|24|M|other|85711"],
    "u.item": [
        "1|Round Trip (1990)|01-Jan-1990||http://example.org/1|0|1|0",
        "2|unknown||||1|0|0",
        "3|Été (1995) (V)|01-Jan-1995||http://example.org/3|0|1|1",
    ],
    "u.genre": ["unknown|0", "Action|1", "Drama|2", ""],
    "u.data": ["1\t3\t5\t881250949", "2\t1\t3\t881250950", "1\t2\t2\t881250951"],
}


def write_files(folder: Path, files: dict[str, list[str]]) -> Path:
    folder.mkdir(parents=True)
    for name, lines in files.items():
        (folder / name).write_bytes("".join(f"{line}\n" for line in lines).encode("latin-1"))
    return folder


@pytest.fixture
def ml_1m(tmp_path) -> Path:
    """A folder with three users, three films and four ratings in the ML-1M layout."""
    return write_files(tmp_path / "ml-1m", ML_1M)


@pytest.fixture
def ml_100k(tmp_path) -> Path:
    """A folder with two users, three films and three ratings in the ML-100K layout."""
    return write_files(tmp_path / "ml-100k", ML_100K)
