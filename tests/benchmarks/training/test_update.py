"""The day that is split off a data set, and codes that change."""

from __future__ import annotations

import numpy as np

from benchmarks.training.update import count_changed_rows, write_day


def test_a_day_has_all_of_its_users_and_items_and_some_of_the_others(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    users, items = range(1, 101), range(1, 201)
    (source / "users.dat").write_text("".join(f"{user}::F::1::10::48067\n" for user in users))
    (source / "movies.dat").write_text("".join(f"{item}::É ({item})::Drama\n" for item in items))
    ratings = [f"{user}::{item}::5::978300760\n" for user in users for item in items]
    (source / "ratings.dat").write_text("".join(ratings))
    new = write_day(source, tmp_path / "base", tmp_path / "day")
    assert (len(new.users), len(new.items)) == (2, 2)
    lines = {
        folder: {
            name: (tmp_path / folder / f"{name}.dat").read_text().splitlines(keepends=True)
            for name in ("ratings", "users", "movies")
        }
        for folder in ("base", "day")
    }
    assert sorted(lines["base"]["ratings"] + lines["day"]["ratings"]) == sorted(ratings)
    pairs = np.array([line.split("::")[:2] for line in lines["base"]["ratings"]], int)
    assert not np.isin(pairs[:, 0], new.users).any()
    assert not np.isin(pairs[:, 1], new.items).any()
    assert len(lines["base"]["users"]) == 98
    assert len(lines["base"]["movies"]) == 198
    for position, name in ((0, "users"), (1, "movies")):
        listed = {line.split("::")[0] for line in lines["day"][name]}
        assert listed == {line.split("::")[position] for line in lines["day"]["ratings"]}


def test_rows_whose_code_changed_are_counted():
    old = [(np.array([5, 7, 8]), {"code": np.array([[3], [2], [4]])})]
    new = [(np.array([5, 6, 7, 8]), {"code": np.array([[3], [6], [5], [4]])})]
    assert count_changed_rows(old, new) == 0
    new[0][1]["code"][3] = 7
    assert count_changed_rows(old, new) == 1
