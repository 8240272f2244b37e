"""Generated files have the sizes and shares of the real set, and the planted preferences."""

from __future__ import annotations

import numpy as np
import pytest

from tests.workflows.sources.ali_ccp.conftest import ROWS, SEED, TEST_ROWS, TOKENS
from twotower.workflows.errors import DataError
from twotower.workflows.sources.ali_ccp.draw import FIELDS
from twotower.workflows.sources.ali_ccp.fields import HISTORY, ITEM, POSITION
from twotower.workflows.sources.ali_ccp.generate import Generator, generate
from twotower.workflows.sources.ali_ccp.world import click_rates, item_ids

PLACES = {field.name: place for place, field in enumerate(FIELDS)}


@pytest.fixture(scope="module")
def large() -> Generator:
    """As many features per impression as in the real set; only some lines are drawn."""
    return Generator.of(2_000_000, 1_000_000, 629, 7)


def test_the_same_seed_gives_the_same_bytes(generated, tmp_path):
    generate(tmp_path / "again", ROWS, TEST_ROWS, TOKENS, SEED)
    generate(tmp_path / "other", ROWS, TEST_ROWS, TOKENS, SEED + 1)
    names = sorted(path.name for path in generated.iterdir())
    assert len(names) == 5 and "SYNTHETIC" in names
    for name in names:
        whole = (generated / name).read_bytes()
        assert (tmp_path / "again" / name).read_bytes() == whole
        assert (tmp_path / "other" / name).read_bytes() != whole


def test_the_files_are_in_the_order_of_the_index(generated):
    for kind, column in (("sample_skeleton", 3), ("common_features", 0)):
        lines = (generated / f"{kind}_train.csv").read_text().splitlines()
        indices = [line.split(",")[column] for line in lines]
        assert indices == sorted(indices) and all(len(each) == 16 for each in indices)
        if kind == "common_features":
            assert len(set(indices)) == len(indices)
    numbers = (generated / "sample_skeleton_train.csv").read_text().splitlines()
    assert [int(line.split(",")[0]) for line in numbers] == list(range(1, ROWS + 1))


def test_impressions_have_as_many_features_as_asked_for(large):
    block = large.block(large.parts[0], 0, 5000)
    common = np.diff(block.common.ends, prepend=0)
    own = np.diff(block.features.ends, prepend=0)
    counts = own + common[block.impressions.common]
    assert counts.mean() == pytest.approx(629, rel=0.03)
    assert np.quantile(counts, 0.99) == pytest.approx(1980, rel=0.1)
    for field in HISTORY:  # no feature twice in a list
        here = block.common.field == PLACES[field.name]
        line = np.repeat(np.arange(len(common)), common)[here]
        pairs = line * 10**7 + block.common.feature[here]
        assert len(np.unique(pairs)) == len(pairs) > 5000


def test_the_shares_are_those_of_the_real_set(large):
    train, test = large.parts
    blocks = [large.block(part, 0, len(part.ends) // 4) for part in (train, test)]
    for block in blocks:
        clicks, conversions = block.impressions.click, block.impressions.conversion
        assert clicks.mean() == pytest.approx(0.04, abs=0.004)
        assert conversions[clicks == 1].mean() == pytest.approx(0.005, abs=0.002)
        assert not conversions[clicks == 0].any()
        ends, here = block.features.ends, block.features.field == PLACES[POSITION.name]
        row = np.searchsorted(ends, np.flatnonzero(here), side="right")
        position = np.zeros(len(ends), dtype=np.int64)
        position[row] = block.features.feature[here]
        rates = [clicks[position == each].mean() for each in (1, 2, 3)]
        assert rates[0] / rates[1] == pytest.approx(1.5, rel=0.1)
        assert rates[2] / rates[1] == pytest.approx(0.6, rel=0.1)
        assert (position == 0).mean() == pytest.approx(0.04, abs=0.004)
    users = [set(part.users.tolist()) for part in (train, test)]
    assert len(users[1] - users[0]) / len(users[1]) == pytest.approx(0.26, abs=0.01)
    assert len(train.ends) / len(users[0]) == pytest.approx(3.1, abs=0.3)


def test_a_share_of_the_test_items_is_new():
    generator = Generator.of(200_000, 200_000, 40, 1)
    items = []
    for part in generator.parts:
        block = generator.block(part, 0, len(part.ends))
        items.append(set(block.features.feature[block.features.field == PLACES["item_id"]]))
    assert len(items[1] - items[0]) / len(items[1]) == pytest.approx(0.28, abs=0.02)


def test_an_item_has_the_same_features_in_every_line(drawn):
    block = drawn.block(drawn.parts[0], 0, len(drawn.parts[0].ends))
    of_items = [PLACES[field.name] for field in ITEM]
    known: dict[int, list] = {}
    for start, end in zip([0, *block.features.ends[:-1]], block.features.ends, strict=True):
        fields, features = block.features.field[start:end], block.features.feature[start:end]
        here = [(f, v) for f, v in zip(fields, features, strict=True) if f in of_items]
        assert here[0][0] == PLACES["item_id"]
        assert known.setdefault(here[0][1], here) == here
    assert len(known) > 300


def test_a_ranking_by_the_planted_preferences_beats_popularity():
    """NDCG@10 on the clicks of test, for users of train."""
    generator = Generator.of(150_000, 50_000, 40, 11)
    place = np.empty(generator.world.items + 1, dtype=np.int64)
    place[item_ids(generator.world)] = np.arange(generator.world.items)
    clicks = []
    for part in generator.parts:
        block = generator.block(part, 0, len(part.ends))
        items = place[block.features.feature[block.features.field == PLACES["item_id"]]]
        rows = block.impressions.click == 1
        clicks.append((part.users[block.impressions.common[rows]], items[rows]))
    popularity = np.bincount(clicks[0][1], minlength=generator.world.items)
    users = np.intersect1d(clicks[1][0], generator.parts[0].users)
    rates = click_rates(generator.world, users)
    best = ndcg(np.argsort(-rates, axis=1)[:, :10], users, clicks[1])
    same = np.tile(np.argsort(-popularity)[:10], (len(users), 1))
    assert best > 2 * ndcg(same, users, clicks[1]) > 0.01


def ndcg(ranked: np.ndarray, users: np.ndarray, clicks: tuple[np.ndarray, np.ndarray]) -> float:
    discounts = 1 / np.log2(np.arange(2, 12))
    found = []
    for user, row in zip(users, ranked, strict=True):
        wanted = np.unique(clicks[1][clicks[0] == user])
        found.append((np.isin(row, wanted) @ discounts) / discounts[: len(wanted)].sum())
    return float(np.mean(found))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 10}, "rows is 10; give 1,000 to "),
        ({"test_rows": -1}, "test rows is -1"),
        ({"tokens": 5}, "tokens is 5; give 30 to 2,000"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_wrong_numbers_are_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        generate(tmp_path / "made", **{"rows": 2000, **change})
    assert not (tmp_path / "made").exists()


def test_files_are_not_overwritten(hand_made):
    with pytest.raises(DataError, match="has files of Ali-CCP already; name a new folder"):
        generate(hand_made, 1000)
