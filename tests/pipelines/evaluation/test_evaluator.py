"""The protocol of the next item: what is to be found, and the histories before it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from twotower.models.evaluation.baselines import EASE, ItemKNN
from twotower.pipelines.config import load_config
from twotower.pipelines.errors import RunError
from twotower.pipelines.evaluation.evaluator import Evaluator, load_histories
from twotower.pipelines.run import Run
from twotower.pipelines.steps.evaluate import other_conventions
from twotower.pipelines.steps.ingest import ingest
from twotower.pipelines.steps.preprocess import (
    load_ids,
    load_split,
    load_tables,
    load_training_data,
    preprocess,
)
from twotower.pipelines.steps.processed import RAW_USERS, SPLIT
from twotower.pipelines.steps.verify import score_unseen

SEQUENCES = {1: [10, 11, 12, 13], 2: [12, 10, 11, 10], 3: [11, 12], 4: [13, 12, 11, 10, 14]}
"""By user. User 2 comes back to item 10; user 3 is too short; item 14 is in the test part only."""


def rows(sequences: dict[int, list[int]], start: int = 0) -> pd.DataFrame:
    found = [
        (user, item, place)
        for user, items in sequences.items()
        for place, item in enumerate(items, start)
    ]
    return pd.DataFrame(found, columns=["user_id", "item_id", "pos"])


def made(folder: Path, sequences: dict[int, list[int]], *overrides: str) -> Run:
    """A preprocessed run of `configs/sequences.yaml` on rows in any order."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "log.parquet"
    rows(sequences).sample(frac=1, random_state=3).to_parquet(path)
    config = load_config("sequences", ("features.history=3", *overrides), path)
    run = Run.create(config, folder / "run")
    ingest(run, remember=False)
    preprocess(run)
    return run


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Run:
    return made(tmp_path_factory.mktemp("sequences"), SEQUENCES)


def test_the_last_item_is_test_and_the_one_before_it_valid(small):
    parts = load_split(small.path / "processed")
    found = {
        part: dict(zip(parts[part]["user_id"], parts[part]["item_id"], strict=True))
        for part in ("valid", "test")
    }
    users, items = ({code: id for code, id in enumerate(ids)} for ids in load_ids(small))
    assert (users, items) == ({0: 1, 1: 2, 2: 3, 3: 4}, {0: 10, 1: 11, 2: 12, 3: 13, 4: 14})
    assert found == {"valid": {1: 12, 2: 11, 4: 10}, "test": {1: 13, 2: 10, 4: 14}}
    items, offsets = load_training_data(small).sequences()
    assert items.tolist() == [0, 1, 2, 0, 1, 2, 3, 2, 1] and offsets.tolist() == [0, 2, 4, 6, 9]


def test_a_query_knows_the_items_before_the_one_to_be_found(small):
    users, items = load_tables(small)
    codes = dict(zip(load_ids(small)[1], items["item_id"][:, 0], strict=True))
    codes[None] = 0
    assert codes[14] == 2  # out of vocabulary: not in the training part

    def encoded(*lists):
        return [[codes[item] for item in each] for each in lists]

    train = encoded([11, 10, None], [10, 12, None], [12, 11, None], [11, 12, 13])
    test = encoded([12, 11, 10], [11, 10, 12], [12, 11, None], [10, 11, 12])
    assert users["history"].tolist() == train
    for part, expected in (("valid", train), ("test", test)):
        assert Evaluator(small, part).with_history(users, items)["history"].tolist() == expected
    served = pd.read_parquet(small.path / "processed" / RAW_USERS)["history"]
    assert [list(each) for each in served] == [[13, 12, 11], [10, 11, 10], [12, 11], [14, 10, 11]]
    assert load_histories(small)[0].tolist() == [3, 2, 1]


def test_a_split_without_an_order_is_refused(small, tmp_path):
    run = Run(Path(shutil.copytree(small.path, tmp_path / "run")))
    path = run.path / "processed" / SPLIT
    pd.read_parquet(path).drop(columns="position").to_parquet(path)
    with pytest.raises(RunError, match="run `twotower preprocess` again"):
        Evaluator(run, "test")


class Fixed:
    """The same scores for all users."""

    def score(self, users: np.ndarray) -> np.ndarray:
        return np.tile(np.array([5, 4, 3, 2, 1], np.float32), (len(users), 1))


def test_all_conventions_of_masking(small):
    """Items 10 to 14 are ranked in this order; 13, 10 and 14 are to be found."""
    evaluator = Evaluator(small, "test")
    assert evaluator.repeats == 1
    masked, others, nothing = (
        evaluator.evaluate(Fixed(), masked=each) for each in ("seen", "other", "none")
    )
    # Users 1 and 4 have had all other items before theirs; user 2 has had it, so it is not found.
    assert masked.values["mrr@10"] == pytest.approx((1 + 0 + 1) / 3)
    # If only other items are masked, user 2 finds it, too.
    assert others.values["mrr@10"] == pytest.approx((1 + 1 + 1) / 3)
    assert nothing.values["mrr@10"] == pytest.approx((1 / 4 + 1 + 1 / 5) / 3)
    assert masked.errors["hit@10"] == pytest.approx(1 / 3)  # hits 1, 0, 1
    assert other_conventions(small, evaluator) == [
        "metrics_not_masked",
        "metrics_others_masked",
    ]


def test_repeats_are_left_out_by_default(tmp_path):
    run = made(tmp_path, SEQUENCES, "split.repeats=last", "ingest.files.duplicates=keep_all")
    found = pd.read_parquet(run.path / "processed" / SPLIT)
    assert sorted(found.loc[found["user_id"] == 2, "item_id"]) == [10, 11, 12]
    evaluator = Evaluator(run, "test")
    assert evaluator.repeats == 0
    assert other_conventions(run, evaluator) == ["metrics_not_masked"]
    run.override(("split.method=random",))
    assert not other_conventions(run, evaluator)


@pytest.mark.slow
def test_the_server_knows_all_items_and_an_update_adds_some(tmp_path):
    """Local answers equal brute force, and the query of the test part never has its own item."""
    from twotower.models.training.saving import load
    from twotower.pipelines.run import TRITON
    from twotower.pipelines.steps.export import export
    from twotower.pipelines.steps.publish import publish
    from twotower.pipelines.steps.train import train
    from twotower.pipelines.steps.update import update
    from twotower.serving.local import LocalVersion

    draw = np.random.default_rng(0)
    sequences = {user: draw.permutation(12)[: draw.integers(4, 9)].tolist() for user in range(40)}
    settings = (
        "model.dim=4",
        "training.batch_size=64",
        "update.max_loss=0.99",
        "evaluation.ks=[3]",
    )
    run = made(tmp_path / "base", sequences, *settings, "training.monitor=ndcg@3")
    train(run)

    def check(number: int, users: int) -> None:
        version = LocalVersion(run.path / TRITON / "retrieval" / str(number))
        ids, scores = version.answer(np.arange(users), 5, filter_seen=True)
        item_ids, expected = score_unseen(run, np.arange(users))
        place = np.argsort(-expected, axis=1, kind="stable")[:, :5]
        best = np.take_along_axis(expected, place, 1)
        np.testing.assert_allclose(scores, best, atol=1e-5)
        known = np.isfinite(best)
        assert (ids == item_ids[place])[known].mean() > 0.98
        model = load(run.path / "model").model
        given = Evaluator(run, "test")
        scorer = given.tower_scorer(model, *load_tables(run))
        histories = [[load_ids(run)[1][i] for i in row[row >= 0]] for row in given.histories]
        asked, answered = version.answer(np.arange(users), 5, features={"history": histories})
        local = scorer.score(np.arange(users))
        np.testing.assert_allclose(answered, np.take_along_axis(local, asked, 1), atol=1e-5)

    publish(run, export(run)["version"], anyway=True)
    check(1, 40)
    more = {user: [(items[-1] + 1) % 12] for user, items in sequences.items()}
    day = pd.concat([rows({user: items}, len(sequences[user])) for user, items in more.items()])
    new = rows({40: [0, 1, 2, 3]})
    pd.concat([day, new]).to_parquet(tmp_path / "day.parquet")
    check(update(run, tmp_path / "day.parquet", anyway=True), 41)
    latest = pd.read_parquet(run.path / "processed" / RAW_USERS)["history"].str[0]
    assert latest.tolist()[:40] == [items[0] for items in more.values()]
    sizes = [*(len(items) + 1 for items in sequences.values()), 4]
    assert (
        pd.read_parquet(run.path / "processed" / SPLIT).groupby("user_id").size().tolist() == sizes
    )
    # The items of the update come after the one to be found, so its query does not have them.
    before = Evaluator(run, "test").histories[:40, 0]
    assert before.tolist() == [items[-2] for items in sequences.values()]


def test_baselines_know_the_valid_item_as_well(small):
    """With two items in common, item 13 is near to those that user 1 has only in the valid part."""
    evaluator = Evaluator(small, "test")
    scorer = ItemKNN().fit(evaluator.train)
    before = scorer.score(np.arange(4))
    evaluator.evaluate(scorer)
    after = scorer.score(np.arange(4))
    # User 1 has 10 and 11 in train and 12 in valid; user 4 has 12 and 13 in train.
    cosine = 1 / np.sqrt(3)  # 12 has three users, 13 has one, and they have one in common
    assert after[0, 3] - before[0, 3] == pytest.approx(cosine)
    assert (after[2] == before[2]).all()  # user 3 has nothing in valid


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "item", "users", "scorer", "hit", "ndcg"),
    [
        ("ml-1m", "movie_id", 6040, EASE(), 0.107, 0.053),
        # No figure of others: that of the plain cosine with all items before in the query.
        ("s3_beauty", "item_id", 22363, ItemKNN(), 0.056, 0.032),
    ],
)
def test_shared_sequences(data_dir, tmp_path, name, item, users, scorer, hit, ndcg):
    """The targets are the last places of the file, and EASE has its known figures."""
    path = data_dir / "sequences" / f"{name}_sequences.parquet"
    run = Run.create(
        load_config("sequences", (f"ingest.files.columns.item_id={item}",), path), tmp_path / "run"
    )
    ingest(run, remember=False)
    preprocess(run)
    log = pd.read_parquet(path).sort_values("pos").groupby("user_id")[item]
    parts = load_split(run.path / "processed")
    for part, place in (("test", -1), ("valid", -2)):
        found = parts[part].set_index("user_id")["item_id"].sort_index()
        assert len(found) == users
        assert found.tolist() == log.nth(place).sort_index().tolist()
    evaluator = Evaluator(run, "test")
    valid, test = (parts[part].sort_values("user_row")["item_row"] for part in ("valid", "test"))
    assert (evaluator.histories[:, 0] == valid.to_numpy()).all()
    assert (load_histories(run)[:, 0] == test.to_numpy()).all()
    values = evaluator.evaluate(scorer.fit(evaluator.train)).values
    assert values["hit@10"] == pytest.approx(hit, abs=0.0005)
    assert values["ndcg@10"] == pytest.approx(ndcg, abs=0.0005)
