"""The operators and their compiled steps, against NVTabular, TensorFlow and known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.serving.conftest import answer, request_table
from twotower.serving.runtime.arrays import expand
from twotower.serving.runtime.contract import count_of, row_of
from twotower.serving.runtime.errors import ServingError


@pytest.fixture(scope="module")
def engine(world, tmp_path_factory):
    from twotower.serving.ensemble import compile_ensemble
    from twotower.serving.runtime.compiled_engine import CompiledEngine

    folder = tmp_path_factory.mktemp("engine")
    compile_ensemble(world.ensemble, folder)
    return CompiledEngine(folder)


NAN = np.nan
DIRTY = {
    "city": [None, "", " ", "zürich", "Zürich\0", "\0", "東", "🦉", "Oslo\0\0", "x" * 5000],
    "age": [0, -1, 2**63 - 1, -(2**63), 17, 61],
    "income": [NAN, 0.0, -0.0, 12.5, -12.5, 1e300, -1e300, 5e-324, 12.500000001],
    "tags": [
        *(None, [], [""], [None], ["x" * 5000], ["電子"] * 7, ["Jazz", "Jazz"], ["Jazz", None]),
        *([None, "nope", "Jazz"], ["a\0", "\0\0", "a", "Jazz"], ["🦉", "Jazz ", "jazz"]),
    ],
    "visits": [
        *(None, [], [NAN], [1.0, NAN], [NAN, 2.0], [2.0**53, 2.0**53 + 2], [1e300, -1e300]),
        *([-0.0, 5e-324], [-7.0] * 9, [1.0000001, 1.0], [np.inf, 2.0]),
    ],
    "spend": [NAN, 0.0, -0.0, 1e30, -1e30, 5e-324, -12.5, 1 / 3],
    "liked": [None, [], [1], [2, 4], [7] * 9, [1, 4, 7, 10, 13, 16], [-1, 2**63 - 1]],
}


def dirty_rows(world, count: int) -> pd.DataFrame:
    """Known, unknown, empty, unicode and null values and lists; negative and huge numbers."""
    draw = np.random.default_rng(5)
    known = world.users.sample(count, replace=True, random_state=2, ignore_index=True)
    ids = [0, -1, 2**63 - 1, -(2**63), world.huge_user, world.huge_user + 1, world.unknown_user]
    for column, values in {"user_id": ids, **DIRTY}.items():
        choice = pd.Series(values, dtype=world.users[column].dtype)
        choice = choice.sample(count, replace=True, random_state=4, ignore_index=True)
        known[column] = known[column].where(draw.random(count) < 0.4, choice)
    return known


def test_encoding_equals_nvtabular(world, engine):
    from twotower.serving.operators import UserFeatures

    rows = pd.concat([world.users, dirty_rows(world, 10_000)], ignore_index=True)
    rows = rows.astype(world.users.dtypes)
    columns = {"user_id": rows["user_id"].to_numpy()}
    stored = UserFeatures(rows.assign(user_id=range(len(rows))), "user_id", [*DIRTY], world.lists)
    for feature in stored.stored.values():
        columns.update(feature)
    encoded = engine.encoding.run(columns)
    encoded |= {name: dense(encoded, name, length) for name, length in world.lists.items()}
    expected = world.arrays(world.encode(rows))
    for name in world.users:
        codes = expected[name].reshape(encoded[name].shape)
        np.testing.assert_array_equal(encoded[name], codes, err_msg=name)
        if name != "spend":
            assert encoded[name].dtype == np.int64
            assert set(encoded[name].flat) >= {2, 3}, f"{name}: unknown and known were not both met"
    assert 1 in encoded["city"]
    assert 1 in encoded["income"]
    assert encoded["spend"].dtype == expected["spend"].dtype == np.float32
    assert len(np.unique(encoded["spend"])) > 100


def dense(columns, name, length):
    """A list column as [n, length], filled up with zeros."""
    return expand(columns[name], columns[count_of(name)], length, 0)


def test_tower_equals_tensorflow(world, engine):
    rows = dirty_rows(world, 500)
    # Beyond what requests may hold, the square of a vector overflows in both.
    codes = world.encode(rows.assign(spend=rows["spend"].clip(-1e9, 1e9)))
    columns = {}
    for name, values in world.arrays(codes).items():
        if name in world.lists:
            columns[count_of(name)] = (values != 0).sum(axis=1)
            values = values[values != 0]
        columns[name] = values.ravel().astype(np.float32 if name == "spend" else np.int64)
    vectors = engine.tower.run(columns)["query_vector"]
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, world.tower(codes), atol=1e-5)


def test_an_inexact_onnx_is_refused(world, tmp_path, monkeypatch):
    from twotower.serving import operators

    monkeypatch.setattr(operators, "TOLERANCE", -1.0)
    tower = operators.QueryTower(world.saved_model)
    with pytest.raises(ServingError, match="differs from TensorFlow by"):
        tower.compile(tmp_path, world.workflow.output_schema)


def test_users_complete_what_the_request_leaves_out(world, engine):
    from twotower.serving.runtime.contract import ABSENT, NULL, VALUE

    user = world.users.dropna().iloc[0]
    nobody = int(world.users["user_id"][world.users["city"].isna()].iloc[0])
    table = request_table(
        world.ensemble, [user["user_id"], nobody, world.unknown_user], features={"age": [5, 6, 7]}
    )
    table[row_of("user_id")] = engine.users.rows(table["user_id"])
    completed = engine.features.run(table)
    assert completed["age"].tolist() == [5, 6, 7]
    assert completed["city"][0] == user["city"]
    assert completed["city__state"].tolist() == [VALUE, NULL, ABSENT]


def test_whole_numbers_stay_whole_and_exact_beside_nulls(tmp_path):
    from twotower.serving.operators import UserFeatures
    from twotower.serving.runtime import steps
    from twotower.serving.runtime.contract import NULL, VALUE, Contract

    big = 2**60 + 1
    users = pd.DataFrame(
        {
            "user": [1, 2, 3],
            "age": pd.array([big, None, 7], "Int64"),
            "shops": [[big, None], None, [7]],
        }
    )
    operator = UserFeatures(users, "user", ["age", "shops"], {"shops": 2})
    assert operator.features == {"age": "INT64", "shops": "INT64"}
    entry = operator.compile(tmp_path, None)
    reads = Contract("user", "item", operator.features, 1, 1, operator.lists)
    table = reads.read({"user": np.array([[1], [2], [3]])}, {})
    table[row_of("user")] = np.arange(3)
    completed = steps.UserFeatures(tmp_path, entry, threads=1).run(table)
    assert completed["age"].tolist() == [big, 0, 7]
    assert completed["age__state"].tolist() == [VALUE, NULL, VALUE]
    assert completed["shops__count"].tolist() == [2, 0, 1]
    assert completed["shops"].tolist() == [big, -(2**63), 7]


def test_the_first_values_of_a_users_list_are_kept(tmp_path):
    from twotower.serving.operators import UserFeatures
    from twotower.serving.runtime import steps
    from twotower.serving.runtime.contract import Contract

    tags = [["a", "b", "a", "c"], None, ["x", None], []]
    users = pd.DataFrame({"user": [4, 1, 3, 2], "tags": tags})
    operator = UserFeatures(users, "user", ["tags"], {"tags": 3})
    entry = operator.compile(tmp_path, None)
    reads = Contract("user", "item", operator.features, 1, 1, operator.lists)
    table = reads.read({"user": np.array([[4], [1], [3], [2], [404]])}, {})
    users = steps.UserFeatures(tmp_path, entry, threads=1)
    completed = users.run({**table, row_of("user"): np.array([3, 0, 2, 1, 4])})
    assert completed["tags__count"].tolist() == [3, 0, 2, 0, 0]
    assert completed["tags"].tolist() == ["a", "b", "a", "x", "\uffff"]
    given = {"user": np.array([[4]]), "tags": np.array([[b"z", "\uffff".encode()]], object)}
    completed = users.run({**reads.read(given, {}), row_of("user"): np.array([3])})
    assert completed["tags"].tolist() == ["z"]
    assert completed["tags__count"].tolist() == [1]
    both = reads.join([reads.read(given, {}), table])
    completed = users.run({**both, row_of("user"): np.array([0, 3, 0, 2, 1, 4])})
    assert completed["tags"].tolist() == ["z", "a", "b", "a", "x", "\uffff"]
    assert completed["tags__count"].tolist() == [1, 3, 0, 2, 0, 0]


def test_a_tower_reads_lists_as_wide_as_a_block_of_rows_needs(monkeypatch):
    from twotower.serving.runtime import steps

    columns = {
        "id": np.array([7, 8, 9]),
        **{"tags": np.array([1, 2, 3, 4, 5, 6]), count_of("tags"): np.array([1, 5, 0])},
    }
    monkeypatch.setattr(steps, "VALUES_AT_ONCE", 10)
    first, second = steps.padded_blocks(columns, {"id": None, "tags": None})
    assert (first["id"].tolist(), second["id"].tolist()) == ([7, 8], [9])
    assert first["tags"].tolist() == [[1, 0, 0, 0, 0], [2, 3, 4, 5, 6]]
    assert second["tags"].tolist() == [[0]]
    blocks = steps.padded_blocks(columns, {"tags": 6})
    assert [block["tags"].shape for block in blocks] == [(1, 6)] * 3


def test_blocks_of_rows_answer_as_all_rows_at_once(world, engine, monkeypatch, assert_same):
    from twotower.serving.runtime import steps

    liked = [[*range(1, 1 + 3 * n, 3)] for n in range(40)]
    users = world.users["user_id"].iloc[:40].tolist()
    table = request_table(world.ensemble, users, features={"liked": liked})
    expected = engine.run(table)
    monkeypatch.setattr(steps, "VALUES_AT_ONCE", 12)
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


def test_equal_scores_rank_by_item_id_when_seen_ones_are_filtered(tmp_path):
    from twotower.serving.operators import FaissTopK
    from twotower.serving.runtime.index import build_index
    from twotower.serving.runtime.seen import SeenItems
    from twotower.serving.runtime.top_k import FaissTopK as Compiled

    ids = np.array([9, 4, 7, 1, 3, 8])
    build_index(ids, np.ones((6, 2), np.float32), tmp_path / "index", "ab")
    names = {"row": "row", "vector": "vector", "item_id": "item", "towers_sha256": "ab"}
    (tmp_path / "compiled").mkdir()
    seen = SeenItems.from_pairs([5, 5], [3, 8]).of(np.array([5, 6]))
    operator = FaissTopK(tmp_path / "index", seen, history=None, **names)
    entry = operator.compile(tmp_path / "compiled", None)
    items, _ = Compiled(tmp_path / "compiled", entry, threads=1).best(
        np.ones((2, 2), np.float32),
        np.array([0, 1]),
        {"k": np.array([3, 6]), "filter_seen": np.array([True, True])},
    )
    assert items.tolist() == [[1, 4, 7, -1, -1, -1], [1, 3, 4, 7, 8, 9]]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"columns": "city"}, "lacks the column 'City!'"),
        ({"rows": 0}, "empty"),
        ({"twice": True}, "occurs more than once"),
        ({"age": [[1, 2]]}, "'Age!' is mixed"),
        ({"age": [True]}, "'Age!' is bool"),
        ({"tags": ["rock"]}, "'Tags!' holds 'rock'; expected a list"),
        ({"tags": [["a", "\uffff"]]}, r"'Tags!' holds the value '\\uffff'"),
        ({"tags": [[-(2**63)]]}, "'Tags!' holds the value -9223372036854775808"),
        ({"tags": [["a", 1]]}, "'Tags!' is mixed"),
        ({"user_id": ["a"]}, "'user_id' of the user table must be int64"),
        ({"user_id": [None]}, "'user_id' of the user table must be int64"),
    ],
)
def test_a_bad_user_table_is_refused(change, message):
    from twotower.serving.operators import UserFeatures

    users = pd.DataFrame({"user_id": [1], "city": ["x"], "age": [3], "tags": [["a"]]})
    if "columns" in change:
        users = users.drop(columns=change["columns"])
    elif "rows" in change:
        users = users.head(0)
    elif "twice" in change:
        users = pd.concat([users, users])
    else:
        users = users.assign(**change)
    with pytest.raises(ServingError, match=message):
        names = {"city": "City!", "age": "Age!", "tags": "Tags!"}  # as requests call them
        UserFeatures(users, "user_id", ["city", "age", "tags"], {"tags": 3}, names)
