"""Ali-CCP's text files become the tables that the files describe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workflows.sources.ali_ccp.texts import ALL, convert, parse_slowly
from twotower.workflows.errors import DataError
from twotower.workflows.ingest import IngestConfig, detect_source, source_files
from twotower.workflows.sources.ali_ccp.config import AliCCPConfig
from twotower.workflows.sources.ali_ccp.conversion.cut import cut_lists
from twotower.workflows.sources.ali_ccp.draw import FIELDS
from twotower.workflows.sources.ali_ccp.fields import COMBINED, COMMON, HISTORY, ITEM, USER
from twotower.workflows.sources.ali_ccp.source import AliCCPRaw
from twotower.workflows.sources.ali_ccp.text import value_of
from twotower.workflows.sources.wanted import Wanted

NAMES = {field.code: field.name for field in FIELDS}


def all_rows(tables) -> list[dict]:
    return pa.concat_tables(list(tables.interactions.batches())).to_pylist()


def by_id(table: pa.Table, key: str) -> dict[int, dict]:
    return {row.pop(key): row for row in table.to_pylist()}


def test_the_hand_made_files_become_these_tables(hand_made, tmp_path):
    tables, messages = convert(hand_made, tmp_path / "work")
    log = pa.concat_tables(list(tables.interactions.batches()))
    assert log["user_id"].to_pylist() == [1, 1, 2, 1, 3, 2]
    assert log["item_id"].to_pylist() == [5, 6, 5, 6, 7, 5]
    assert log["click"].to_pylist() == [1, 0, 1, 0, 0, 1]
    assert log["conversion"].to_pylist() == [0, 0, 1, 0, 0, 0]
    assert log["position"].to_pylist() == [2, 3, None, 3, None, 2]
    assert log["part"].to_pylist() == ["train"] * 4 + ["test"] * 2
    assert log["common"].to_pylist() == [0, 0, 1, 2, 3, 4]
    assert log["user_profile"].to_pylist() == [50, 50, None, 50, 51, None]
    assert log["user_item_categories"].to_pylist() == [None, None, 60, None, None, None]
    assert log["user_item_categories_value"][2].as_py() == np.float32(2.3979)
    assert log["user_item_intentions_value"].to_pylist() == [None, -0.5, None, -0.5, None, None]
    users = by_id(tables.users, "user_id")
    assert sorted(users) == [1, 2, 3]
    # The last row in train, although that in test of user 2 comes later.
    assert users[1]["user_categories"] == [8] and users[1]["user_categories_weights"] == [0.25]
    assert users[1]["user_shops"] is None
    assert users[2]["user_intentions_weights"] == [pytest.approx(0.1)]
    assert users[3]["user_profile"] == 51
    items = by_id(tables.items, "item_id")
    assert sorted(items) == [5, 6, 7]
    assert items[5]["item_category"] == 61 and items[5]["item_intention"] is None
    assert items[7]["item_category"] == 60 and items[6]["item_category"] is None
    (contexts,) = tables.more
    rows = pq.read_table(contexts).to_pylist()
    assert [row["common"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[0]["user_categories"] == [7, 9] and rows[0]["user_categories_weights"] == [0.5, 2.5]
    assert rows[3]["common_feature_index"] == "00aa" and rows[3]["part"] == "test"
    assert [line.partition(" ")[0] + line[line.index(" of") :][:5] for line in messages] == [
        "1 of 3",
        "1 of 3",
        "1 of 2",
        "1 of 2",
    ]
    assert "1 of 3 users have several rows" in messages[0]
    assert "1 of 3 items have lines with different features" in messages[1]
    assert "users in test (50.0%) do not occur in train" in messages[2]


def test_the_tables_have_what_a_slow_parser_finds(generated, tmp_path):
    tables, _ = convert(generated, tmp_path, block_mb=1, list_values=5)
    assert len(tables.interactions.files) == 3  # train has two blocks
    contexts = pq.read_table(tables.more[0]).to_pylist()
    rows, items, users = all_rows(tables), {}, {}
    number, common = 0, 0
    for part in ("train", "test"):
        places = {}
        for head, triples in parse_slowly(generated / f"common_features_{part}.csv"):
            places[head[0]] = common
            check_context(contexts[common], part, head[0], triples)
            user = contexts[common]["user_id"]
            if part == "train" or user not in users or users[user][0] == "test":
                users[user] = (part, contexts[common])
            common += 1
        for head, triples in parse_slowly(generated / f"sample_skeleton_{part}.csv"):
            check_row(rows[number], part, head, triples, contexts[places[head[3]]])
            item = rows[number]["item_id"]
            features = [each for each in triples if NAMES[each[0]] in {f.name for f in ITEM[1:]}]
            if part == "train" or item not in items or items[item][0] == "test":
                items[item] = (part, features)
            number += 1
    assert (number, common) == (len(rows), len(contexts))
    check_items(by_id(tables.items, "item_id"), items)
    check_users(by_id(tables.users, "user_id"), users, length=5)


def values(triples, name):
    return [(each[1], np.float32(each[2])) for each in triples if NAMES[each[0]] == name]


def check_context(row, part, index, triples):
    assert (row["part"], row["common_feature_index"]) == (part, index)
    for field in USER:
        assert [row[field.name]] == ([each for each, _ in values(triples, field.name)] or [None])
    for field in HISTORY:
        pairs = zip(row[field.name] or [], row[f"{field.name}_weights"] or [], strict=True)
        assert list(pairs) == values(triples, field.name)


def check_row(row, part, head, triples, context):
    assert (row["click"], row["conversion"]) == (int(head[1]), int(head[2]))
    assert (row["part"], row["common"]) == (part, context["common"])
    for name in ("item_id", "position"):
        assert [row[name]] == ([each for each, _ in values(triples, name)] or [None])
    for field in COMBINED:
        pair = (row[field.name], row[f"{field.name}_value"])
        assert [pair] == (values(triples, field.name) or [(None, None)])
    for field in USER:
        assert row[field.name] == context[field.name]


def check_items(table, items):
    assert table.keys() == items.keys()
    for item, (_, triples) in items.items():
        row = table[item]
        for name in ("item_category", "item_shop", "item_brand"):
            assert [row[name]] == ([each for each, _ in values(triples, name)] or [None])
        assert (row["item_intention"] or []) == [f for f, _ in values(triples, "item_intention")]


def check_users(table, users, length):
    assert table.keys() == users.keys()
    cut = 0
    for user, (_, context) in users.items():
        row = table[user]
        for field in USER[1:]:
            assert row[field.name] == context[field.name]
        for field in HISTORY:
            pairs = list(
                zip(context[field.name] or [], context[f"{field.name}_weights"] or [], strict=True)
            )
            cut += len(pairs) > length
            best = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:length]
            assert (row[field.name] or []) == [feature for feature, _ in best]
            assert (row[f"{field.name}_weights"] or []) == [weight for _, weight in best]
    assert cut > len(users)


def test_the_tables_have_what_was_drawn(generated, drawn, tmp_path):
    tables, _ = convert(generated, tmp_path)
    log = pa.concat_tables(list(tables.interactions.batches()))
    contexts = pq.read_table(tables.more[0])
    row = first = 0
    for part in drawn.parts:
        block = drawn.block(part, 0, len(part.ends))
        here = log.slice(row, len(block.impressions.click))
        assert (here["click"].to_numpy() == block.impressions.click).all()
        assert (here["conversion"].to_numpy() == block.impressions.conversion).all()
        assert (here["common"].to_numpy() == block.impressions.common + first).all()
        for place, field in enumerate(FIELDS):
            drawn_here = block.features.field == place
            if field.name in here.column_names and field not in COMMON:
                found = here[field.name].drop_null().to_numpy()
                assert (found == block.features.feature[drawn_here]).all()
            if field in COMBINED:
                expected = [value_of(count) for count in block.features.counts[drawn_here]]
                found = here[f"{field.name}_value"].drop_null().to_numpy()
                assert (found == np.array(expected, dtype=np.float32)).all()
        lines = contexts.slice(first, len(part.ends))
        for place, field in enumerate(FIELDS):
            if field in HISTORY:
                expected = block.common.feature[block.common.field == place]
                assert (lines[field.name].combine_chunks().flatten().to_numpy() == expected).all()
        row, first = row + len(here), first + len(part.ends)
    assert (row, first) == (len(log), len(contexts))


def test_lists_are_ordered_by_weight_then_feature_and_cut():
    features = pa.array([[3, 1, 2, 9], None, [5], [8, 7, 6]], pa.list_(pa.int64()))
    weights = pa.array([[1, 1, 4, 0.5], None, [2], [-3, -2, 0]], pa.list_(pa.float32()))
    cut = cut_lists(features, weights, 3)
    assert cut[0].to_pylist() == [[2, 1, 3], None, [5], [6, 7, 8]]
    assert cut[1].to_pylist() == [[4.0, 1.0, 1.0], None, [2.0], [0.0, -2.0, -3.0]]
    # The cut may fall among features with the same weight.
    assert cut_lists(features, weights, 2)[0].to_pylist() == [[2, 1], None, [5], [6, 7]]


def test_other_fields_may_be_lists_if_the_settings_say_so(hand_made, tmp_path):
    place = hand_made / "sample_skeleton_train.csv"
    lines = place.read_bytes().replace(b"853\x0290", b"853\x0291\x03.5\x01853\x0290")
    place.write_bytes(lines.replace(b"aa,3,", b"aa,4,").replace(b"cc,3,", b"cc,4,"))
    with pytest.raises(DataError, match=r"line 2: feature 3 of 4: field 853 .* second time; .*lis"):
        convert(hand_made, tmp_path / "work")
    lists = [*AliCCPConfig().lists, "user_item_intentions"]
    tables, _ = convert(hand_made, tmp_path / "work", lists=lists)
    assert all_rows(tables)[1]["user_item_intentions"] == [91, 90]
    assert all_rows(tables)[1]["user_item_intentions_weights"] == [0.5, -0.5]


def test_only_wanted_columns_are_read(hand_made, tmp_path):
    source = AliCCPRaw(
        hand_made, AliCCPConfig(), Wanted(users=("user_age", "user_shops"), items=("item_shop",))
    )
    source.work = tmp_path / "work"
    tables = source.read()
    assert tables.users.column_names == ["user_id", "user_age", "user_shops", "user_shops_weights"]
    assert tables.items.column_names == ["item_id", "item_shop"]
    for table in ("users", "items", "interactions"):
        source.wanted = Wanted(**{table: ("colour",)})
        with pytest.raises(DataError, match=f"no column colour for the {table}: Ali-CCP has "):
            source.read()


def test_a_value_other_than_1_that_is_not_stored_is_reported(hand_made, tmp_path):
    place = hand_made / "sample_skeleton_train.csv"
    place.write_bytes(place.read_bytes().replace(b"206\x0260\x031.0", b"206\x0260\x032.0"))
    _, messages = convert(hand_made, tmp_path / "work")
    text = (
        "sample_skeleton_train.csv: 1 values of item_category are not 1; only the feature is kept"
    )
    assert text in messages


def test_without_test_files_all_is_train(hand_made, tmp_path):
    for name in ("sample_skeleton_test.csv", "common_features_test.csv"):
        (hand_made / name).unlink()
    tables, messages = convert(hand_made, tmp_path / "work")
    assert {row["part"] for row in all_rows(tables)} == {"train"}
    assert messages[-1] == "there are no test files: all impressions are in part train"


def test_the_files_are_recognised_in_a_folder_and_one_level_down(hand_made, generated):
    assert detect_source(hand_made) == ("ali-ccp-raw", hand_made)
    assert detect_source(hand_made.parent) == ("ali-ccp-raw", hand_made)
    assert AliCCPRaw.shipped_config(hand_made) == "ali-ccp-raw"
    files = source_files(IngestConfig(source="ali-ccp-raw", path=hand_made.parent))
    assert [path.name for path in files] == [
        "sample_skeleton_train.csv",
        "common_features_train.csv",
        "sample_skeleton_test.csv",
        "common_features_test.csv",
    ]
    assert not AliCCPRaw(hand_made, AliCCPConfig()).synthetic
    assert AliCCPRaw(generated, AliCCPConfig()).synthetic


def test_without_a_folder_for_work_the_files_live_as_long_as_the_source(hand_made):
    source = AliCCPRaw(hand_made, AliCCPConfig(), ALL)
    place = source.read().interactions.files[0]
    assert place.exists()
    del source
    assert not place.exists()


def test_an_update_has_new_impressions_of_one_part(hand_made):
    for name in ("sample_skeleton_train.csv", "common_features_train.csv"):
        (hand_made / name).unlink()
    source = AliCCPRaw(Path("elsewhere"), AliCCPConfig(), ALL)
    tables = source.read_update(hand_made, {"user_id": pa.int64(), "item_id": pa.int64()})
    assert tables["interactions"]["item_id"].to_pylist() == [7, 5]
    assert tables["interactions"]["common"].to_pylist() == [None, None]
    assert tables["users"]["user_id"].to_pylist() == [3, 2]
    assert tables["items"]["item_category"].to_pylist() == [60, 60]
