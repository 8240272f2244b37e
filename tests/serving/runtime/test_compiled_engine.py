"""The compiled engine gives the same answers as merlin-systems' own executor."""

from __future__ import annotations

import numpy as np

from tests.serving.conftest import answer, request_table


def test_blocks_of_rows_answer_as_all_rows_at_once(world, engine, monkeypatch, assert_same):
    from twotower.serving.runtime.operators import query_tower

    liked = [[*range(1, 1 + 3 * n, 3)] for n in range(40)]
    users = world.users["user_id"].iloc[:40].tolist()
    table = request_table(world.ensemble, users, features={"liked": liked})
    expected = engine.run(table)
    monkeypatch.setattr(query_tower, "VALUES_AT_ONCE", 12)
    for got in (engine.run(table), answer(world.ensemble, table)):
        assert_same(tuple(got.values()), tuple(expected.values()))


def test_the_compiled_engine_equals_the_stock_executor(world, engine, assert_same):
    users = [*world.users["user_id"], world.unknown_user, -(2**63)]
    cases = [
        {},
        {"k": 300, "filter_seen": False},
        {"k": 400},
        {"features": {"city": ["東京"] * 122, "income": [np.nan] * 122}},
        {"features": {"tags": [["Jazz", "new"]] * 61 + [[]] * 61, "spend": [1e9, np.nan] * 61}},
        {"features": {"visits": [[]] * 122}},
        {"features": {"liked": [[], [1, 4, 2], [7] * 9, [*range(1, 901, 3)]] * 30 + [[4]] * 2}},
        {"filter_seen": False, "features": {"liked": [[1, 4, 7]] * 122}},
    ]
    for case in cases:
        table = request_table(world.ensemble, users, **case)
        expected, got = answer(world.ensemble, table), engine.run(table)
        assert_same(tuple(got.values()), tuple(expected.values()))
        assert [column.dtype for column in got.values()] == [np.int64, np.float32]


def test_features_that_no_row_gives_may_be_left_out(world, engine, assert_same):
    from twotower.serving.ensemble import contract

    reads = contract(world.ensemble, 10, 10)
    users = [*world.users["user_id"], world.unknown_user]
    table = reads.read({"user_id": np.array(users)[:, None]}, {})
    assert table.keys() == {"user_id", "k", "filter_seen"}
    expected = answer(world.ensemble, reads.complete(table))
    for asked in (table, table, reads.complete(table)):  # the second time from kept vectors
        assert_same(tuple(engine.run(asked).values()), tuple(expected.values()))
    given = reads.read({"user_id": np.array(users)[:, None], "age": np.full((121, 1), 7)}, {})
    expected = answer(world.ensemble, reads.complete(given))
    assert_same(tuple(engine.run(given).values()), tuple(expected.values()))


def test_rows_of_one_table_may_ask_for_different_things(world, engine):
    users = world.users["user_id"].iloc[:6].tolist()
    asked = [(1, True), (300, False), (7, True), (300, True), (2, False), (10, True)]
    table = request_table(world.ensemble, users)
    table["k"], table["filter_seen"] = map(np.array, zip(*asked, strict=True))
    together = engine.run(table)
    for row, (user, (k, filter_seen)) in enumerate(zip(users, asked, strict=True)):
        alone = engine.run(request_table(world.ensemble, [user], k, filter_seen))
        np.testing.assert_array_equal(together["item_id"][row, :k], alone["item_id"][0])
        assert (together["item_id"][row, k:] == -1).all()
