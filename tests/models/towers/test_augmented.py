"""What the towers share: layers, and vectors that imitate the other tower's outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.models.checkerboard import (  # noqa: F401
    ITEMS,
    TRAINING,
    USERS,
    data,
    own_colour,
    vectors,
)
from tests.models.columns import code_column
from tests.models.test_two_tower import OOV, build, features, multi_hot, only, schema  # noqa: F401
from twotower.models.config import TwoTowerConfig
from twotower.models.training.fit import fit
from twotower.models.training.growth import grow
from twotower.models.training.model import create
from twotower.models.training.saving import load, load_tower, save
from twotower.models.two_tower import embed

DUAL = {"dim": 4, "hidden": [5], "feature_dim": 2, "mimic_weight": 0.3}


def larger(more=0):
    """The schema of `seeing`, with `more` users and items."""
    from merlin.schema import Schema, Tags

    user = code_column("user", USERS + 3 + more, Tags.USER_ID, Tags.USER)
    seen = multi_hot("seen", ITEMS + 3 + more, 6, Tags.USER, Tags.SEQUENCE)
    return Schema([user, seen, code_column("film", ITEMS + 3 + more, Tags.ITEM_ID, Tags.ITEM)])


@pytest.fixture
def seeing(data):  # noqa: F811
    """The checkerboard of test_fit, and a history of up to 6 positives of each user."""
    seen = np.zeros((USERS, 6), np.int32)
    for user in range(USERS):
        own = data.item_rows[data.user_rows == user][:6] + 3
        seen[user, : len(own)] = own
    return replace(data, users={**data.users, "seen": seen})


def encoders(model):
    """Each tower with its columns."""
    return (model.query_encoder, ["user", "age"]), (model.candidate_encoder, ["film", "genres"])


def augmented(encoder):
    """The variable with a tower's augmented vectors."""
    return encoder.first["_augmented"].vectors.embeddings


@pytest.mark.parametrize("hidden", [[], [5]])
def test_shared_layers_have_one_set_of_weights_that_both_towers_train(schema, hidden):  # noqa: F811
    import tensorflow as tf

    config = TwoTowerConfig(dim=4, hidden=hidden, feature_dim=2, normalize=False)
    alone = build(schema, config)
    model = build(schema, config.copy(update={"shared": [6]}))
    of_query, of_candidate = ({id(w) for w in e.trainable_variables} for e, _ in encoders(model))
    shared = [w for w in model.trainable_variables if id(w) in of_query & of_candidate]
    assert [w.shape.as_list() for w in shared] == [[4, 6], [6], [6, 4], [4]]
    assert len(model.trainable_variables) == len(alone.trainable_variables) + 4
    assert len({id(w) for w in model.weights}) == len(model.weights) == len(alone.weights) + 4

    draw = np.random.default_rng(0)
    for weight in shared:
        weight.assign(draw.normal(size=weight.shape))
    w1, b1, w2, b2 = (weight.numpy() for weight in shared)
    batch = features(6)
    for (encoder, columns), (before, _) in zip(encoders(model), encoders(alone), strict=True):
        own = [w for w in encoder.trainable_variables if not any(w is each for each in shared)]
        for weight, of_encoder in zip(before.trainable_variables, own, strict=True):
            weight.assign(of_encoder)
        given = only(columns, batch)
        expected = np.maximum(embed(before, given) @ w1 + b1, 0) @ w2 + b2
        np.testing.assert_allclose(embed(encoder, given), expected, rtol=1e-4, atol=1e-6)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(encoder({n: tf.constant(v) for n, v in given.items()}) ** 2)
        for gradient in tape.gradient(loss, shared):
            assert np.abs(gradient).max() > 1e-6


QUERY_OF, POSITIVE_OF = np.array([0, 1, 1, 2, 0]), np.array([0, 0, 2, 1, 2])
USER = {"user": np.int32([[3], [OOV], [4]]), "age": np.int32([[3], [4], [3]])}
ITEM = {  # the last item is not a positive
    "film": np.int32([[3], [OOV], [5], [4]]),
    "genres": np.int32([[5, 0, 0], [3, 4, 0], [0, 0, 0], [7, 0, 0]]),
}


@pytest.mark.parametrize("objective", [{}, {"propensity_power": 0.5}])
def test_augmented_vectors_imitate_the_other_tower(schema, objective):  # noqa: F811
    import tensorflow as tf

    model = build(schema, TwoTowerConfig(**DUAL, objective=objective))
    (query, _), (candidate, _) = encoders(model)
    p_u, p_v = embed(query, USER)[QUERY_OF], embed(candidate, ITEM)[POSITIVE_OF]
    users, items = USER["user"][QUERY_OF, 0], ITEM["film"][POSITIVE_OF, 0]
    off_u = augmented(query).numpy()[users] - p_v
    off_v = augmented(candidate).numpy()[items] - p_u
    expected = 0.3 * ((off_u**2).sum(axis=1).mean() + (off_v**2).sum(axis=1).mean())

    batch = {**USER, **ITEM, "_query_of": QUERY_OF, "_positive_of": POSITIVE_OF}
    batch |= {"_count": np.float32([2, 1, 2, 1]), "_row": np.int32([0, 1, 2, 3])}
    inputs = {name: tf.constant(values) for name, values in batch.items()}
    with tf.GradientTape() as tape:
        model(inputs, training=True)
        loss = sum(model.losses)
    assert float(loss) == pytest.approx(expected, rel=1e-5)

    learnt = dict(zip(map(id, model.trainable_variables), model.trainable_variables, strict=True))
    gradients = tape.gradient(loss, learnt)
    for table, codes, off in (
        (augmented(query), users, off_u),
        (augmented(candidate), items, off_v),
    ):
        slopes = np.zeros(table.shape)
        np.add.at(slopes, codes, 0.3 * 2 / 5 * off)
        found = tf.convert_to_tensor(gradients.pop(id(table)))
        np.testing.assert_allclose(found, slopes, rtol=1e-4, atol=1e-6)
    assert set(gradients.values()) == {None}, "no gradient flows into the towers' outputs"
    model({name: tf.constant(values[:3]) for name, values in {**USER, **ITEM}.items()})
    assert not model.losses


def test_an_augmented_vector_is_an_input_of_its_tower(schema):  # noqa: F811
    model = build(schema, TwoTowerConfig(**DUAL))
    for encoder, columns in encoders(model):
        kernel = next(w for w in encoder.weights if w.shape.as_list()[1:] == [5])
        assert kernel.shape[0] == 4 + 2 + 4, "the id's, the feature's, the augmented one"
        given = only(columns, {**USER, **ITEM})
        before = embed(encoder, given)
        table = augmented(encoder)
        table.assign(np.where(np.arange(table.shape[0])[:, None] == OOV, 1.0, table))
        moved = np.abs(embed(encoder, given) - before).max(axis=1) > 1e-3
        np.testing.assert_array_equal(moved, given[columns[0]][:, 0] == OOV)


def test_mimic_weight_without_hidden_layers_is_an_error():
    with pytest.raises(ValueError, match="mimic_weight needs hidden layers"):
        TwoTowerConfig(mimic_weight=0.5)


@pytest.mark.slow
def test_all_trainable_parts_are_in_checkpoints_and_saved_models(seeing, tmp_path):
    layers = {"hidden": [16], "layers": "residual", "shared": [16], "dropout": 0.1}
    mutual = {"mimic_weight": 0.1, "history_pooling": "self_attention"}
    config = TwoTowerConfig(dim=8, **layers, **mutual)
    tower = create(larger(), seeing, config, seed=1)
    history = fit(tower, seeing, TRAINING, own_colour(seeing), tmp_path / "state")
    assert max(history["val_ndcg@10"]) > 0.95
    # A finished training is restored, and no step is done.
    again = create(larger(), seeing, config, seed=2)
    assert fit(again, seeing, TRAINING, lambda model: 1 / 0, tmp_path / "state") == history
    for weight, other in zip(again.model.weights, tower.model.weights, strict=True):
        np.testing.assert_array_equal(weight, other)

    save(tower, tmp_path)
    saved = [load_tower(tmp_path / f"{name}_tower") for name in ("query", "candidate")]
    found = zip(vectors(tower.model, seeing), vectors(load(tmp_path).model, seeing), strict=True)
    tables = zip(saved, (seeing.users, seeing.items), strict=True)
    for (ours, reloaded), (alone, table) in zip(found, tables, strict=True):
        np.testing.assert_array_equal(reloaded, ours)
        np.testing.assert_allclose(embed(alone, table), ours, atol=1e-6)


def test_augmented_vectors_grow_with_the_vocabularies(seeing):
    config = TwoTowerConfig(**DUAL, shared=[6], history_pooling="self_attention")
    tower = create(larger(), seeing, config, seed=1)
    draw = np.random.default_rng(0)
    for weight in tower.model.trainable_variables:
        weight.assign(draw.normal(size=weight.shape))
    users = {
        "user": np.arange(3, USERS + 8, dtype=np.int32)[:, None],
        "seen": np.pad(seeing.users["seen"], [(0, 5), (0, 0)]),
    }
    items = {"film": np.arange(3, ITEMS + 8, dtype=np.int32)[:, None]}
    more = replace(seeing, users=users, items=items)
    grown = grow(tower, larger(5), more, seed=2)
    user, film = users["user"], items["film"]
    as_before = replace(
        seeing,
        users={**users, "user": np.where(user < USERS + 3, user, OOV)},
        items={"film": np.where(film < ITEMS + 3, film, OOV)},
    )
    found, expected = vectors(grown.model, more), vectors(tower.model, as_before)
    for ours, before in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, before)
