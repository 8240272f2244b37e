"""The two-tower model: vectors, hidden ids and the logQ correction against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.columns import code_column
from twotower.models.config import TwoTowerConfig
from twotower.models.errors import ModelError
from twotower.models.training.saving import save_tower
from twotower.models.two_tower import TowerScorer, build_two_tower, embed, hide_item_ids

OOV = 2


def multi_hot(name, cardinality, width, *tags):
    one = code_column(name, cardinality, *tags, value_count={"min": width, "max": width})
    return one.with_dtype(np.int32, is_list=True, is_ragged=False)


@pytest.fixture(scope="module")
def schema():
    """Two id columns, a user feature, a multi-hot item feature of width 3."""
    from merlin.schema import Schema, Tags

    return Schema(
        [
            code_column("user", 10, Tags.USER_ID, Tags.USER),
            code_column("age", 5, Tags.USER),
            code_column("film", 7, Tags.ITEM_ID, Tags.ITEM),
            multi_hot("genres", 8, 3, Tags.ITEM),
        ]
    )


@pytest.fixture(scope="module")
def wide_schema(schema):
    """Also a multi-hot user feature of width 2, two numbers of the user, one of the item."""
    from merlin.schema import ColumnSchema, Schema, Tags

    def number(name, tag):
        return ColumnSchema(name, dtype=np.float32, tags=[Tags.CONTINUOUS, tag])

    return schema + Schema(
        [
            multi_hot("likes", 6, 2, Tags.USER),
            number("weight", Tags.USER),
            number("height", Tags.USER),
            number("price", Tags.ITEM),
        ]
    )


WIDE_USER = ("user", "age", "likes", "weight", "height")


def features(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "user": random.integers(3, 10, (rows, 1)).astype(np.int32),
        "age": random.integers(1, 5, (rows, 1)).astype(np.int32),
        "film": random.integers(3, 7, (rows, 1)).astype(np.int32),
        "genres": random.integers(0, 8, (rows, 3)).astype(np.int32),
        "likes": random.integers(0, 6, (rows, 2)).astype(np.int32),
        "weight": random.normal(size=(rows, 1)).astype(np.float32),
        "height": random.normal(size=(rows, 1)).astype(np.float32),
        "price": random.normal(size=(rows, 1)).astype(np.float32),
    }


def only(columns, batch):
    return {name: batch[name] for name in columns}


def tables(encoder) -> dict[str, np.ndarray]:
    """Weights of a tower by column; each has another number of rows."""
    columns = {10: "user", 5: "age", 7: "film", 8: "genres", 6: "likes", 2: "numbers", 1: "price"}
    return {columns[w.shape[0]]: w.numpy() for w in encoder.weights}


def build(schema, config, counts=None):
    import tensorflow as tf

    tf.keras.utils.set_random_seed(1)
    model = build_two_tower(schema, np.ones(7) if counts is None else counts, config)
    model({n: tf.constant(values) for n, values in only(schema.column_names, features(2)).items()})
    return model


def test_a_tower_without_hidden_layers_is_the_normalised_sum_of_its_embeddings(schema):
    model = build(schema, TwoTowerConfig(dim=4))
    batch = features(6)
    weights = tables(model.query_encoder)
    expected = weights["user"][batch["user"][:, 0]] + weights["age"][batch["age"][:, 0]]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    vectors = embed(model.query_encoder, only(["user", "age"], batch))
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_a_multi_hot_column_is_the_mean_of_its_known_values(schema):
    model = build(schema, TwoTowerConfig(dim=4))
    batch = {
        "film": np.full((4, 1), 4, np.int32),
        "genres": np.array([[5, 0, 0], [5, 6, 0], [0, 0, 0], [2, 5, 0]], np.int32),
    }
    weights = tables(model.candidate_encoder)
    film, genres = weights["film"][4], weights["genres"]
    both = (genres[5] + genres[6]) / 2
    expected = np.stack([film + genres[5], film + both, film, film + genres[5]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embed(model.candidate_encoder, batch), expected, atol=1e-6)


def test_numbers_and_user_lists_add_to_the_sum(wide_schema):
    model = build(wide_schema, TwoTowerConfig(dim=4))
    batch = features(6)
    batch["likes"] = np.array([[0, 0], [2, 0], [3, 0], [3, 5], [2, 4], [4, 4]], np.int32)
    w = tables(model.query_encoder)
    likes = np.stack(
        [np.zeros(4), np.zeros(4), w["likes"][3], (w["likes"][3] + w["likes"][5]) / 2]
        + [w["likes"][4]] * 2
    )
    height, weight = w["numbers"]  # by name
    expected = (
        w["user"][batch["user"][:, 0]]
        + w["age"][batch["age"][:, 0]]
        + likes
        + batch["height"] * height
        + batch["weight"] * weight
    )
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    vectors = embed(model.query_encoder, only(WIDE_USER, batch))
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_a_number_of_0_changes_nothing(wide_schema):
    model = build(wide_schema, TwoTowerConfig(dim=4))
    batch = features(5)
    batch["price"][:] = 0
    w = tables(model.candidate_encoder)
    known = ~np.isin(batch["genres"], (0, OOV))[..., None]
    genres = (w["genres"][batch["genres"]] * known).sum(1) / np.maximum(known.sum(1), 1)
    expected = w["film"][batch["film"][:, 0]] + genres
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    vectors = embed(model.candidate_encoder, only(["film", "genres", "price"], batch))
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_with_hidden_layers_numbers_are_concatenated_with_embeddings(wide_schema):
    model = build(wide_schema, TwoTowerConfig(dim=6, hidden=[8], feature_dim=3))
    first = next(w for w in model.query_encoder.weights if w.shape[-1] == 8 and w.shape.rank == 2)
    assert first.shape[0] == 6 + 3 + 3 + 1 + 1, "user, age, likes, height, weight"
    batch = only(WIDE_USER, features(5))
    taller = embed(model.query_encoder, {**batch, "height": batch["height"] + 1})
    assert np.abs(taller - embed(model.query_encoder, batch)).max(axis=1).min() > 1e-4


@pytest.mark.parametrize("hidden", [[], [8]])
def test_a_saved_query_tower_has_named_inputs_and_equal_outputs(wide_schema, hidden, tmp_path):
    import tensorflow as tf

    model = build(wide_schema, TwoTowerConfig(dim=4, hidden=hidden))
    save_tower(model.query_encoder, wide_schema, tmp_path)
    saved = tf.saved_model.load(str(tmp_path))
    signature = saved.signatures["serving_default"]
    specs = signature.structured_input_signature[1]
    assert {name: (spec.dtype.name, spec.shape[1:].as_list()) for name, spec in specs.items()} == {
        "user": ("int32", [1]),
        "age": ("int32", [1]),
        "likes": ("int32", [None]),
        "weight": ("float32", [1]),
        "height": ("float32", [1]),
    }
    batch = only(WIDE_USER, features(7))
    (vectors,) = signature(**{name: tf.constant(v) for name, v in batch.items()}).values()
    np.testing.assert_allclose(vectors, embed(model.query_encoder, batch), atol=1e-6)


def test_hidden_layers_give_unit_vectors_of_the_configured_size(schema):
    model = build(schema, TwoTowerConfig(dim=6, hidden=[8], feature_dim=3))
    vectors = embed(model.candidate_encoder, only(["film", "genres"], features(5)))
    assert vectors.shape == (5, 6) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_without_normalisation_scores_are_inner_products(schema):
    model = build(schema, TwoTowerConfig(dim=4, normalize=False))
    batch = only(["film", "genres"], features(5))
    tables = {w.shape[0]: w.numpy() for w in model.candidate_encoder.weights}
    genres = [tables[8][[g for g in row if g > OOV]].sum(0) for row in batch["genres"]]
    known = [max(sum(g > OOV for g in row), 1) for row in batch["genres"]]
    expected = tables[7][batch["film"][:, 0]] + np.array(genres) / np.array(known)[:, None]
    np.testing.assert_allclose(embed(model.candidate_encoder, batch), expected, rtol=1e-5)


def test_embed_does_not_depend_on_the_batch_size(schema):
    model = build(schema, TwoTowerConfig(dim=4))
    batch = only(["user", "age"], features(11))
    whole = embed(model.query_encoder, batch)
    np.testing.assert_allclose(embed(model.query_encoder, batch, batch_size=4), whole, atol=1e-6)


def test_the_l2_penalty_sums_the_squares_of_all_embeddings_in_the_batch(schema):
    import tensorflow as tf

    model = build(schema, TwoTowerConfig(dim=4, embedding_l2=0.5))
    values = {10: 1.0, 5: 2.0, 7: 3.0, 8: np.arange(8.0)[:, None]}  # by number of rows of the table
    for encoder in (model.query_encoder, model.candidate_encoder):
        for weight in encoder.weights:
            weight.assign(np.broadcast_to(values[weight.shape[0]], weight.shape))
    batch = {
        "user": np.array([[3], [4], [5]], np.int32),
        "age": np.array([[3], [3], [4]], np.int32),
        "film": np.array([[3], [4], [5]], np.int32),
        "genres": np.array([[5, 3, 0], [0, 0, 0], [OOV, 6, 0]], np.int32),
    }
    batch |= {"_query_of": np.arange(3), "_positive_of": np.arange(3), "_count": np.ones(3)}
    model({name: tf.constant(codes) for name, codes in batch.items()}, training=True)
    users, items = 3 * 1**2 + 3 * 2**2, 3 * 3**2 + (4**2 + 0 + 6**2)
    assert float(sum(model.losses)) == pytest.approx(0.5 * 4 * (users + items))


@pytest.mark.parametrize("logq", [0.0, 1.0, 0.5])
def test_in_batch_loss_equals_the_formula(schema, logq):
    """Softmax over cos / T - logq * log p, the positive included, other rows of its id left out."""
    import tensorflow as tf

    from twotower.models.feature_lookup import FeatureLookup

    counts = np.array([0, 0, 1, 50, 20, 10, 19], float)
    config = TwoTowerConfig(dim=4, temperature=0.2, logq=logq)
    model = build(schema, config, counts)
    model.compile(optimizer="sgd", metrics=[])
    table = only(schema.column_names, features(12))
    table["film"] = np.arange(12, dtype=np.int32)[:, None] % 4 + 3  # the first four rows differ
    users = {name: table[name] for name in ("user", "age")}
    items = {name: table[name][:4] for name in ("film", "genres")}
    lookup = FeatureLookup(
        users,
        items,
        "film",
        np.zeros(4, np.float32),
        0.0,
        1,
        lambda: tf.constant(0),
        lists=["genres"],
    )
    taken = np.random.default_rng(0).integers(0, 4, 12)
    rows = {"user_row": tf.range(12), "item_row": tf.constant(taken, tf.int32)}
    inputs = lookup(rows, training=True)
    outputs = model.call_train_test(inputs, None, training=True)
    loss = float(model.compute_loss(inputs, outputs.targets, outputs.predictions, None))

    users, items = embed(model.query_encoder, users), embed(model.candidate_encoder, items)[taken]
    film = taken + 3
    share = np.maximum(counts, 0.5) / np.maximum(counts, 0.5).sum()
    logits = users @ items.T / config.temperature - logq * np.log(share[film])
    positive = np.diag(logits)
    negatives = np.where(film[:, None] == film[None, :], -np.inf, logits)
    everything = np.concatenate([positive[:, None], negatives], axis=1)
    expected = np.mean(np.log(np.exp(everything).sum(axis=1)) - positive)
    assert loss == pytest.approx(expected, rel=1e-4)


def test_counts_must_cover_the_vocabulary(schema):
    with pytest.raises(ModelError, match=r"5 entries.*film.*7"):
        build_two_tower(schema, np.ones(5), TwoTowerConfig())


def test_every_known_item_is_hidden_equally_often():
    codes = np.array([3, 4, 5, OOV])
    positives = np.array([100, 10, 1, 0])
    probability, counts = hide_item_ids(codes, positives, 1.0, 6, OOV)
    np.testing.assert_allclose(probability, [0.01, 0.1, 0.5, 0.0])
    # each item's count without hidden ids, and the mean hidden count: (1 + 1 + .5) / 3
    np.testing.assert_allclose(counts, [0, 0, 2.5 / 3, 99, 9, 0.5])


def test_items_outside_the_vocabulary_count_one_by_one_not_as_their_sum():
    codes = np.array([3, OOV, OOV])
    probability, counts = hide_item_ids(codes, np.array([50, 2, 2]), 2.0, 4, OOV)
    np.testing.assert_allclose(probability, [0.04, 0.0, 0.0])
    np.testing.assert_allclose(counts, [0, 0, 2.0, 48])


def test_scorer_is_the_dot_product():
    scorer = TowerScorer(np.array([[1.0, 0], [0, 2.0]]), np.array([[3.0, 1], [1, 4], [0, 5]]))
    np.testing.assert_allclose(scorer.score(np.array([1, 0])), [[2, 8, 10], [3, 1, 0]])
