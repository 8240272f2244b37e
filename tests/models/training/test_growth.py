"""Updates: existing weights are kept, new values start as unknown ones and are learnt."""

from __future__ import annotations

import numpy as np
import pytest

from twotower.models.config import TwoTowerConfig
from twotower.models.training.config import TrainingConfig, UpdateConfig
from twotower.models.training.data import TrainingData
from twotower.models.training.fit import fit
from twotower.models.training.growth import grow, known_items, limit_change, with_replay
from twotower.models.training.model import create
from twotower.models.two_tower import embed

OOV, OLD, NEW = 2, 40, 10
TRAINING = TrainingConfig(batch_size=64, epochs=8, patience=8, learning_rate=0.05)


def schema(users: int, items: int, genres: int):
    from merlin.schema import ColumnSchema, Schema, Tags

    def column(name, values, *tags, **kwargs):
        properties = {"domain": {"min": 0, "max": values + 2, "name": name}}
        properties |= kwargs.pop("properties", {})
        tags = [Tags.CATEGORICAL, *tags]
        return ColumnSchema(name, dtype=np.int32, tags=tags, properties=properties, **kwargs)

    width = {"value_count": {"min": 2, "max": 2}}
    return Schema(
        [
            column("user", users, Tags.USER_ID, Tags.USER),
            ColumnSchema("age", dtype=np.float32, tags=[Tags.CONTINUOUS, Tags.USER]),
            column("film", items, Tags.ITEM_ID, Tags.ITEM),
            column("genres", genres, Tags.ITEM, is_list=True, is_ragged=False, properties=width),
        ]
    )


def checkerboard(users: int, items: int) -> TrainingData:
    """Even users take even items, odd users odd ones; sorted by user, so new users are last."""
    random = np.random.default_rng(0)
    rows = np.argwhere(np.add.outer(np.arange(users), np.arange(items)) % 2 == 0)
    genres = random.integers(3, 6, (items, 2)).astype(np.int32)
    return TrainingData(
        users={
            "user": np.arange(3, users + 3, dtype=np.int32)[:, None],
            "age": random.normal(size=(users, 1)).astype(np.float32),
        },
        items={"film": np.arange(3, items + 3, dtype=np.int32)[:, None], "genres": genres},
        user_rows=rows[:, 0].astype(np.int32),
        item_rows=rows[:, 1].astype(np.int32),
    )


def right(tower, data: TrainingData, users: slice) -> float:
    """Share of the pairs of `users` whose score is on the right side of the user's median."""
    queries = embed(tower.model.query_encoder, data.users)[users]
    scores = queries @ embed(tower.model.candidate_encoder, data.items).T
    colour = np.add.outer(np.arange(len(data.users["user"]))[users], np.arange(scores.shape[1]))
    return float(((scores > np.median(scores, axis=1, keepdims=True)) == (colour % 2 == 0)).mean())


@pytest.fixture(scope="module", params=[[], [16]], ids=["sum", "hidden"])
def fitted(request, tmp_path_factory):
    """A model of 40 users and items, and its data."""
    data = checkerboard(OLD, OLD)
    config = TwoTowerConfig(dim=8, hidden=request.param)
    tower = create(schema(OLD, OLD, 3), data, config, seed=1)
    fit(
        tower=tower,
        data=data,
        config=TRAINING,
        validate=lambda model: {"ndcg@10": right(tower, data, slice(None))},
        folder=tmp_path_factory.mktemp("state"),
    )
    return tower, data


def unknown(columns: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    codes = columns[name]
    return {**columns, name: np.where(codes >= OLD + 3, OOV, codes)}


def test_a_grown_model_answers_as_before_and_new_ids_as_unknown_ones(fitted):
    tower, _ = fitted
    data = checkerboard(OLD + NEW, OLD + NEW)
    grown = grow(tower, schema(OLD + NEW, OLD + NEW, 3), data, seed=7)
    for encoder, columns, name in (
        ("query_encoder", data.users, "user"),
        ("candidate_encoder", data.items, "film"),
    ):
        np.testing.assert_array_equal(
            embed(getattr(grown.model, encoder), columns),
            embed(getattr(tower.model, encoder), unknown(columns, name)),
        )
    assert len(grown.item_counts) == OLD + NEW + 3 and grown.config == tower.config
    assert known_items(tower, data.items).tolist() == [True] * OLD + [False] * NEW


def test_a_new_value_of_a_list_starts_as_the_mean_of_the_known_ones(fitted):
    tower, data = fitted
    grown = grow(tower, schema(OLD, OLD, 4), data, seed=7)
    film = np.full((3, 1), 3, np.int32)

    def vectors(*genres):
        columns = {"film": film[: len(genres)], "genres": np.array(genres, np.int32)}
        before_norm = grown.model.candidate_encoder
        return embed(before_norm, columns)

    tables = {
        layer.name: layer.table.embeddings.numpy()
        for layer in grown.model._flatten_layers()
        if hasattr(layer, "table")
    }
    np.testing.assert_allclose(tables["genres"][6], tables["genres"][3:6].mean(axis=0), rtol=1e-6)
    assert np.isfinite(vectors((6, 0), (6, 3), (3, 0))).all()


def test_new_users_are_learnt_and_existing_ones_kept(fitted, tmp_path):
    tower, _ = fitted
    data = checkerboard(OLD + NEW, OLD)
    grown = grow(tower, schema(OLD + NEW, OLD, 3), data, seed=7)
    new, old = slice(OLD, None), slice(0, OLD)
    before = embed(grown.model.query_encoder, data.users)[old]
    assert right(grown, data, new) < 0.7

    def validate(model):
        limit_change(grown, tower, fraction=0.0)
        return {"ndcg@10": right(grown, data, new)}

    sample = with_replay(data, NEW * OLD // 2, 1.0, 2, seed=3)
    fit(grown, sample, TRAINING, validate, tmp_path)
    assert right(grown, data, new) > 0.95
    np.testing.assert_array_equal(embed(grown.model.query_encoder, data.users)[old], before)


def test_existing_rows_keep_a_fraction_of_their_change(fitted):
    tower, data = fitted
    grown = grow(tower, schema(OLD + NEW, OLD, 3), data, seed=7)
    start = [variable.numpy() for variable in grown.model.trainable_variables]
    for variable in grown.model.trainable_variables:
        variable.assign_add(np.ones(variable.shape, np.float32))
    limit_change(grown, tower, fraction=0.25)
    for variable, before in zip(grown.model.trainable_variables, start, strict=True):
        moved = variable.numpy() - before
        rows = OLD + 3 if len(before) == OLD + NEW + 3 else len(before)
        np.testing.assert_allclose(moved[:rows], 0.25, atol=1e-6)
        np.testing.assert_allclose(moved[rows:], 1.0, atol=1e-6)


def test_updates_keep_a_learnt_temperature_and_use_counts():
    data = checkerboard(OLD, OLD)
    config = TwoTowerConfig(dim=8, learn_temperature=True, logq_estimate="streaming")
    tower = create(schema(OLD, OLD, 3), data, config, seed=1)
    tower.model._output.log_temperature.assign(np.log(0.4))
    grown = grow(tower, schema(OLD + NEW, OLD, 3), checkerboard(OLD + NEW, OLD), seed=7)
    output = grown.model._output
    assert float(output.temperature) == pytest.approx(0.4)
    output.log_temperature.assign(np.log(0.1))
    limit_change(grown, tower, fraction=0.5)
    assert float(output.temperature) == pytest.approx(0.2)
    # The frequencies of a sample differ from those of the stream.
    assert output.frequency is None and grown.config.logq_estimate == "counts"


def test_replay_draws_old_interactions_once_each():
    data = checkerboard(40, 40)  # 800 interactions; the last 100 are new
    sample = with_replay(data, 100, 2.0, batch_size=2, seed=0)
    assert len(sample.user_rows) == 300
    np.testing.assert_array_equal(sample.user_rows[200:], data.user_rows[700:])
    pairs = list(zip(sample.user_rows, sample.item_rows, strict=True))
    everything = list(zip(data.user_rows, data.item_rows, strict=True))
    assert len(set(pairs)) == 300 and set(pairs[:200]) <= set(everything[:700])
    assert sample.user_rows.dtype == np.int32


def test_replay_fills_the_minimum_number_of_batches_if_it_can():
    data = checkerboard(40, 40)
    sizes = {
        (new, batch_size): len(with_replay(data, new, 1.0, batch_size, seed=0).user_rows)
        for new in (0, 10)
        for batch_size in (2, 10, 100)
    }
    assert sizes == {
        **{(0, 2): 128, (0, 10): 640, (0, 100): 800},
        **{(10, 2): 128, (10, 10): 640, (10, 100): 800},
    }


@pytest.mark.parametrize("bad", [{"replay": -1}, {"epochs": 0}, {"moving": 1.1}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError):
        UpdateConfig(**bad)
