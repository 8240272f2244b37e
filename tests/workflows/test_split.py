"""workflows.split: hand-worked splits, and the protocol of the published benchmark."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from twotower.workflows.errors import DataError
from twotower.workflows.order import OCCURRENCE, ORDER, number_repeats
from twotower.workflows.sources.movielens.source import MovieLens1M
from twotower.workflows.split import (
    SplitConfig,
    extend_split,
    k_core_mask,
    part_sizes,
    split,
    split_report,
)


def pairs(*rows: tuple[int, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"][: len(rows[0])])


def parts(positives: pd.DataFrame, **settings) -> list[str]:
    return split(positives, SplitConfig(**settings))["part"].to_list()


@pytest.mark.parametrize(
    ("size", "expected"),
    # Shares rounded down, but one row where a share is below one; test first, train keeps one.
    [
        (1, (1, 0, 0)),
        (2, (1, 0, 1)),
        (3, (1, 1, 1)),
        (9, (7, 1, 1)),
        (10, (8, 1, 1)),
        (19, (17, 1, 1)),
        (20, (16, 2, 2)),
        (107, (87, 10, 10)),
    ],
)
def test_part_sizes(size, expected):
    assert tuple(int(n[0]) for n in part_sizes(np.array([size]), (0.8, 0.1, 0.1))) == expected


def test_random_gives_each_user_its_sizes_in_any_file_order():
    rows = pairs(*((user, item) for item in range(20) for user in (5, 2)), (9, 1))
    result = split(rows, SplitConfig(seed=1))
    assert result[["user_id", "item_id"]].equals(rows)
    sizes = result.groupby(["user_id", "part"]).size().unstack()[["train", "valid", "test"]]
    assert sizes.loc[[2, 5]].to_numpy().tolist() == [[16, 2, 2]] * 2
    assert sizes.loc[9].to_list() == [1, 0, 0]
    assert split(rows, SplitConfig(seed=1)).equals(result)
    assert not split(rows, SplitConfig(seed=2)).equals(result)


def test_leave_last_out_goes_by_time_then_by_file_order():
    rows = pairs(
        (1, 10, 30), (1, 11, 10), (2, 10, 7), (1, 12, 20), (2, 11, 7), (2, 12, 7), (3, 1, 1)
    )
    expected = ["test", "train", "train", "valid", "valid", "test", "train"]
    assert parts(rows, method="leave_last_out") == expected


def test_leave_last_out_without_timestamps_goes_by_file_order():
    rows = pairs((1, 5), (1, 6), (2, 5), (1, 7), (2, 6))
    expected = ["train", "valid", "train", "test", "train"]
    assert parts(rows, method="leave_last_out") == expected


def test_temporal_cuts_everybody_at_the_same_times():
    rows = pairs(*((i % 3, i, 100 - i) for i in range(10)))
    expected = ["test", "valid"] + ["train"] * 8
    assert parts(rows, method="temporal") == expected
    assert parts(rows, method="temporal", ratios=(0.5, 0, 0.5)) == ["test"] * 5 + ["train"] * 5
    assert parts(rows, method="temporal", ratios=(1, 0, 0)) == ["train"] * 10


def test_temporal_never_divides_one_second():
    rows = pairs((1, 1, 5), (2, 1, 6), (3, 1, 6), (4, 1, 6), (5, 1, 7))
    assert parts(rows, method="temporal", ratios=(0.6, 0.2, 0.2)) == ["train"] + ["valid"] * 3 + [
        "test"
    ]


def test_temporal_without_time_says_what_to_do():
    with pytest.raises(DataError, match="timestamp"):
        parts(pairs((1, 1), (1, 2)), method="temporal")
    with pytest.raises(DataError, match="the same timestamp"):
        parts(pairs((1, 1, 5), (1, 2, 5)), method="temporal")


def test_file_names_the_parts_and_drops_the_rest(tmp_path):
    path = tmp_path / "split.parquet"
    listed = pairs((2, 1), (1, 2), (1, 1)).assign(part=["test", "train", "valid"])
    listed.to_parquet(path)
    rows = pairs((1, 1), (1, 2), (3, 3), (2, 1))
    result = split(rows, SplitConfig(method="file", path=path))
    assert result["part"].to_list() == ["valid", "train", "test"]
    assert result["user_id"].to_list() == [1, 1, 2]
    assert split_report(result)["not_in_split_file"] == 1


def test_k_core_peels_until_nothing_changes():
    # Item 9 has one row; without it user 3 has one, and without that item 2 too few.
    rows = pairs((1, 1), (2, 1), (1, 3), (2, 3), (3, 2), (3, 9), (1, 2))
    kept = k_core_mask(rows["user_id"], rows["item_id"], 2)
    assert rows[kept].to_numpy().tolist() == [[1, 1], [2, 1], [1, 3], [2, 3]]
    assert k_core_mask(rows["user_id"], rows["item_id"], 0).all()
    report = split_report(split(rows, SplitConfig(k_core=2)))
    assert report["dropped_by_k_core"] == 3 and report["all"]["rows"] == 4
    with pytest.raises(DataError, match="k_core=3"):
        split(rows, SplitConfig(k_core=3))


def test_a_column_names_the_parts():
    rows = pairs((1, 1), (1, 2), (2, 1)).assign(part=["test", "valid", "train"])
    assert parts(rows, method="column") == ["test", "valid", "train"]


def test_without_valid_a_share_of_each_users_train_rows_is_taken():
    rows = pairs(*((user, item) for user in (1, 2) for item in range(12)))
    rows["part"] = ["train"] * 10 + ["test"] * 2 + ["train"] * 12
    result = split(rows, SplitConfig(method="column", ratios=(0.8, 0.2, 0)))
    sizes = result.groupby(["user_id", "part"]).size().unstack()
    assert sizes.to_dict("index") == {
        1: {"train": 8, "valid": 2, "test": 2},
        2: {"train": 10, "valid": 2, "test": 0},
    }
    assert (result["part"] == "test").tolist() == (rows["part"] == "test").tolist()
    other = split(rows, SplitConfig(method="column", ratios=(0.8, 0.2, 0), seed=1))
    assert not other["part"].equals(result["part"])


def test_rows_without_a_part_are_divided_at_random():
    rows = pairs(*((user, item) for user in (1, 2) for item in range(10)))
    rows["part"] = None
    config = {"method": "column", "ratios": (0.6, 0.2, 0.2)}
    unnamed = split(rows, SplitConfig(**config))
    random = split(rows, SplitConfig(**{**config, "method": "random"}))
    assert unnamed["part"].tolist() == random["part"].tolist()
    rows.loc[:9, "part"] = ["train"] * 8 + ["test"] * 2
    both = split(rows, SplitConfig(**config))
    assert both["part"].tolist()[:10] == rows["part"].tolist()[:10]
    assert both["part"].value_counts().to_dict() == {"train": 14, "test": 4, "valid": 2}


def test_a_column_without_parts_is_refused():
    with pytest.raises(DataError, match="needs the column part"):
        parts(pairs((1, 1)), method="column")
    with pytest.raises(DataError, match="column part: 'dev' in 1 rows; expected train, valid, tes"):
        parts(pairs((1, 1), (1, 2)).assign(part=["train", "dev"]), method="column")


def test_a_pair_that_comes_again_is_in_one_part_at_its_last_place():
    rows = pairs((1, 10, 1), (1, 11, 2), (1, 12, 3), (1, 10, 4))
    result = split(rows, SplitConfig(method="leave_last_out"))
    assert result["item_id"].to_list() == [11, 12, 10]
    assert result["part"].to_list() == ["train", "valid", "test"]
    assert split_report(result)["repeated_pairs"] == 1


def test_leave_last_out_goes_by_the_order_where_there_are_no_times():
    rows = pairs((1, 7), (1, 8), (1, 9), (2, 7), (2, 8)).assign(**{ORDER: [2, 0, 1, 1, 0]})
    assert parts(rows, method="leave_last_out") == ["test", "train", "valid", "train", "train"]
    tied = rows.assign(timestamp=[5, 5, 9, 1, 1])
    assert parts(tied, method="leave_last_out")[:3] == ["valid", "train", "test"]
    with pytest.raises(DataError, match=r"An order \(ingest\.files\.order\) is no time"):
        parts(rows, method="temporal")


def test_repeats_are_kept_for_the_next_item():
    rows = number_repeats(pairs((1, 7, 1), (1, 8, 2), (1, 9, 3), (1, 7, 4)), "keep")
    config = SplitConfig(method="leave_last_out", repeats="keep")
    before = split(rows, config)
    assert before["item_id"].tolist() == [7, 8, 9, 7]
    assert before["part"].tolist() == ["train", "train", "valid", "test"]
    assert "repeated pairs kept" in split_report(before)["protocol"]
    fresh = pairs((1, 8, 5), (1, 7, 6), (1, 7, 7), (1, 6, 8))
    positives = pd.concat([rows.drop(columns=OCCURRENCE), fresh], ignore_index=True)
    after = extend_split(before, number_repeats(positives, "keep"), fresh, config)
    assert after["item_id"].tolist() == [7, 8, 9, 7, 8, 7, 7, 6]
    assert after[OCCURRENCE].tolist() == [0, 0, 0, 1, 1, 2, 3, 0]
    assert after["part"].tolist()[4:] == ["train", "train", "valid", "test"]
    with pytest.raises(ValidationError, match="repeats: keep needs method leave_last_out"):
        SplitConfig(repeats="keep")


def test_report_counts_each_part_and_names_the_protocol():
    rows = pairs((1, 1, 1), (1, 2, 2), (1, 3, 3), (2, 1, 1))
    report = split_report(split(rows, SplitConfig(method="leave_last_out")))
    assert report["train"] == {"users": 2, "items": 1, "rows": 2}
    assert report["test"] == {"users": 1, "items": 1, "rows": 1}
    assert report["all"] == {"users": 2, "items": 3, "rows": 4}
    assert report["protocol"].startswith("leave last out")


NEW = pairs(*((7, item, 10 + item) for item in range(10)), (1, 99, 40))


def test_what_has_a_part_keeps_it_and_new_positives_are_divided_alike():
    old = pairs(*((1, item, item) for item in range(10)), (2, 0, 0), (2, 1, 1))
    config = SplitConfig()
    before = split(old, config)
    # Pair (2, 1) is no positive any more; (1, 3) comes again.
    positives = pd.concat([old[:-1], NEW, pairs((1, 3, 50))], ignore_index=True)
    fresh = pd.concat([NEW, pairs((1, 3, 50), (2, 1, 50))])
    after = extend_split(before, positives, fresh, config)
    stays = before[~((before["user_id"] == 2) & (before["item_id"] == 1))]
    pd.testing.assert_frame_equal(after[: len(stays)], stays.reset_index(drop=True))
    added = after[len(stays) :]
    assert added[["user_id", "item_id"]].to_numpy().tolist() == NEW.iloc[:, :2].to_numpy().tolist()
    assert added[:10]["part"].value_counts().to_dict() == {"train": 8, "valid": 1, "test": 1}
    assert added["part"].iloc[-1] == "train"
    assert split_report(after)["updated"] == 11
    assert split_report(after)["protocol"].endswith(
        "positives from updates likewise, without k-core"
    )


def test_what_k_core_has_dropped_comes_back_with_new_interactions_only():
    old = pairs((1, 1, 0), (1, 2, 0), (2, 1, 0), (2, 2, 0), (3, 1, 0))
    config = SplitConfig(k_core=2)
    after = extend_split(split(old, config), old, old[:0], config)
    assert after["user_id"].tolist() == [1, 1, 2, 2]
    after = extend_split(split(old, config), old, old[4:], config)
    assert after["user_id"].tolist() == [1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("leave_last_out", ["train"] * 8 + ["valid", "test", "train"]),
        # A cut in time after 8.8 and 9.9 of 11 rows.
        ("temporal", ["train"] * 8 + ["valid", "test", "test"]),
        ("file", ["train"] * 11),
    ],
)
def test_new_positives_by_every_other_method(method, expected, tmp_path):
    old = pairs((1, 1, 1), (1, 2, 2), (1, 3, 3))
    path = tmp_path / "split.parquet"
    old.assign(part=["train", "valid", "test"]).to_parquet(path)
    config = SplitConfig(method=method, path=path)
    after = extend_split(split(old, config), pd.concat([old, NEW]), NEW, config)
    assert after["part"].to_list()[:3] == split(old, config)["part"].to_list()
    assert after["part"].to_list()[3:] == expected


def test_new_positives_of_one_second_are_for_training():
    old = pairs((1, 1, 1), (1, 2, 2), (1, 3, 3))
    config = SplitConfig(method="temporal", ratios=(0.5, 0.25, 0.25))
    after = extend_split(split(old, config), pd.concat([old, NEW[:1]]), NEW[:1], config)
    assert after["part"].to_list()[3:] == ["train"]


@pytest.mark.parametrize("ratios", [(0.5, 0.1, 0.1), (0, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_ratios_that_do_not_add_up_are_refused(ratios):
    with pytest.raises(ValidationError, match="add up to 1"):
        SplitConfig(ratios=ratios)


def test_ml_1m_ten_core_is_the_published_one(data_dir):
    rows = MovieLens1M(data_dir).read().interactions.to_pandas()
    positives = rows[rows["rating"] >= 3]
    result = split(positives, SplitConfig(k_core=10))
    report = split_report(result)
    assert report["all"] == {"users": 6033, "items": 3123, "rows": 834_449}
    assert [report[p]["rows"] for p in ("train", "valid", "test")] == [673_059, 80_695, 80_695]
    path = data_dir / "ml-1m" / "recbole_split.parquet"
    frozen = split(positives, SplitConfig(method="file", path=path))
    sizes = [s.groupby(["user_id", "part"]).size() for s in (result, frozen)]
    assert sizes[0].equals(sizes[1])  # each user has as many rows of each part as there
    assert len(frozen) == 834_449 and split_report(frozen)["not_in_split_file"] == 2029


def test_cold_items_are_in_one_part_with_all_their_positives():
    rows = pd.DataFrame({"user_id": np.arange(600) % 30, "item_id": np.arange(600) // 6})
    config = SplitConfig(method="cold_items", ratios=(0.7, 0.1, 0.2))
    parts = split(rows, config)
    assert (parts.groupby("item_id")["part"].nunique() == 1).all()
    items = parts.drop_duplicates("item_id")["part"].value_counts()
    assert items.to_dict() == {"train": 70, "valid": 10, "test": 20}
    assert split(rows, config.copy(update={"seed": 1}))["part"].tolist() != parts["part"].tolist()
    # An update: known items stay in their part, a new one is in train.
    fresh = pd.DataFrame({"user_id": [99] * 101, "item_id": np.arange(101)})
    grown = extend_split(parts, pd.concat([rows, fresh]), fresh, config)
    of_item = parts.drop_duplicates("item_id").set_index("item_id")["part"]
    new = grown[grown["user_id"] == 99].set_index("item_id")["part"]
    assert (new.loc[:99] == of_item).all() and new[100] == "train"


def test_valid_can_be_trained_on_too():
    rows = pairs(*((user, item, item) for user in (1, 2) for item in range(4)))
    both = split(rows, SplitConfig(method="leave_last_out", train_on_valid=True))
    assert both["part"].to_list() == ["train", "train", "train", "test"] * 2
    assert both.attrs["protocol"].endswith("trained on valid, too")
    new = pairs((3, 0, 1), (3, 1, 2), (3, 2, 3))
    config = SplitConfig(method="leave_last_out", train_on_valid=True)
    extended = extend_split(both, pd.concat([rows, new]), new, config)
    assert extended["part"].to_list()[8:] == ["train", "train", "test"]
