"""The self-supervised task: information by hand, views that complement, the loss as in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

HIDDEN = 2


def information(*columns):
    from twotower.models.objective.self_supervised import mutual_information

    return mutual_information([np.array(column) for column in columns])


def test_mutual_information_by_hand():
    """4 items: a and b determine each other, c is independent of both, d determines half of a."""
    a, b, c, d = [3, 3, 4, 4], [9, 9, 5, 5], [0, 1, 0, 1], [0, 0, 0, 1]
    log2 = math.log(2)
    # p(a, d) = 1/2, 1/4, 1/4; p(d) = 3/4, 1/4
    some = 0.5 * math.log(0.5 / (0.5 * 0.75)) + 0.25 * math.log(0.25 / (0.5 * 0.75))
    some += 0.25 * math.log(0.25 / (0.5 * 0.25))
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    expected = [
        [log2, log2, 0, some],
        [log2, log2, 0, some],
        [0, 0, log2, some],
        [some, some, some, entropy],
    ]
    np.testing.assert_allclose(information(a, b, c, d), expected, atol=1e-12)


def test_mutual_information_equals_the_double_sum():
    """A column of one value has no information; a multi-hot row is one value."""
    draw = np.random.default_rng(0)
    pairs = draw.integers(0, 3, (50, 2))
    columns = [draw.integers(0, 4, 50), pairs, draw.integers(0, 2, (50, 1)), np.ones(50, int)]
    flat = [columns[0], pairs @ [3, 1], columns[2][:, 0], columns[3]]
    expected = np.zeros((4, 4))
    for i, j in np.ndindex(4, 4):
        for a in set(flat[i]):
            for b in set(flat[j]):
                both = np.mean((flat[i] == a) & (flat[j] == b))
                apart = np.mean(flat[i] == a) * np.mean(flat[j] == b)
                expected[i, j] += both * np.log(both / apart) if both else 0
    np.testing.assert_allclose(information(*columns), expected, atol=1e-12)
    assert (information(*columns) >= 0).all()


def test_a_set_has_the_features_most_correlated_with_its_seed():
    from twotower.models.objective.self_supervised import correlated_masks

    shared = [
        [9.0, 5.0, 4.0, 0.1, 0.2],
        [5.0, 1.0, 0.3, 3.0, 2.0],
        [4.0, 0.3, 9.0, 0.5, 0.4],
        [0.1, 3.0, 0.5, 0.0, 6.0],
        [0.2, 2.0, 0.4, 6.0, 9.0],
    ]
    # by hand: the seed and the two features that share most information with it
    expected = [{0, 1, 2}, {1, 0, 3}, {2, 0, 3}, {3, 4, 1}, {4, 3, 1}]
    masks = correlated_masks(np.array(shared))
    assert [set(np.flatnonzero(mask)) for mask in masks] == expected


@pytest.mark.parametrize(("k", "hidden"), [(2, 1), (3, 2), (4, 3), (7, 4), (8, 5)])
def test_each_view_keeps_at_least_one_feature(k, hidden):
    from twotower.models.objective.self_supervised import correlated_masks

    masks = correlated_masks(np.ones((k, k)))
    assert masks.diagonal().all()
    assert (masks.sum(1) == hidden).all() and hidden < k


def test_one_feature_is_an_error():
    from twotower.models.errors import ModelError
    from twotower.models.objective.config import SelfSupervisedConfig
    from twotower.models.objective.self_supervised import item_views

    with pytest.raises(ModelError, match="there is only film; add one to"):
        item_views(SelfSupervisedConfig(), {"film": np.ones((1, 1), np.int32)})


def features(n=6):
    """Codes, numbers, a multi-hot feature, and 64-bit codes; no value equals a hidden one."""
    import tensorflow as tf

    draw = np.random.default_rng(1)
    return {
        "item": tf.constant(draw.integers(3, 90, (n, 1)), tf.int32),
        "year": tf.constant(draw.uniform(1, 2, (n, 1)), tf.float32),
        "genres": tf.constant(draw.integers(3, 9, (n, 40)), tf.int32),
        "brand": tf.constant(draw.integers(3, 9, (n, 1)), tf.int64),
    }


def hides(view, given):
    """Whether each feature is hidden in all rows; asserts that the others are unchanged."""
    answer = []
    for name, values in given.items():
        unknown = HIDDEN if values.dtype.is_integer else 0
        assert view[name].dtype == values.dtype and view[name].shape == values.shape
        answer.append(bool((view[name].numpy() == unknown).all()))
        if not answer[-1]:
            np.testing.assert_array_equal(view[name], values)
    return answer


@pytest.mark.parametrize("correlated", [False, True])
def test_views_complement_each_other(correlated):
    import tensorflow as tf

    from twotower.models.objective.self_supervised import two_views

    sets = np.array([[1, 0, 0, 0], [0, 1, 1, 1], [1, 1, 0, 0]], bool) if correlated else None
    given, seen = features(), []
    graph = tf.function(lambda seed: two_views(given, sets, seed))
    for seed in range(60):
        first, second = (hides(view, given) for view in graph(tf.constant([seed, 4])))
        assert second == [not each for each in first]
        seen.append(tuple(first))
    times = [seen.count(each) for each in set(seen)]
    if correlated:
        assert set(seen) == {tuple(each) for each in sets.tolist()}
        assert min(times) > 10  # of 20
    else:
        # all 6 halves of 4 features
        assert len(times) == 6 and {sum(each) for each in seen} == {2}
        assert min(times) > 3  # of 10


def test_views_depend_on_the_seed_alone():
    from twotower.models.objective.self_supervised import two_views

    given = features()
    one, same, other = (
        two_views(given, None, seed, dropout=0.5) for seed in ([1, 2], [1, 2], [1, 3])
    )
    equal = [
        [bool((a[name].numpy() == b[name].numpy()).all()) for name in given]
        for pair in (same, other)
        for a, b in zip(one, pair, strict=True)
    ]
    assert np.all(equal[:2]) and not np.all(equal[2:])


def test_dropout_hides_values_of_multi_hot_features_only():
    from twotower.models.objective.self_supervised import two_views

    given = features(n=200)
    nothing = np.zeros((1, 4), bool)
    views = [
        two_views(given, nothing, [0, seed], dropout=0.3, lists=["genres"])[0] for seed in range(2)
    ]
    dropped = []
    for view in views:
        for name in ("item", "year", "brand"):
            np.testing.assert_array_equal(view[name], given[name])
        gone = view["genres"].numpy() == HIDDEN
        np.testing.assert_array_equal(view["genres"].numpy()[~gone], given["genres"].numpy()[~gone])
        dropped.append(gone)
    assert np.mean(dropped) == pytest.approx(0.3, abs=0.02)
    assert np.mean(dropped[0] & dropped[1]) == pytest.approx(0.09, abs=0.02)


def test_dropout_hides_the_value_of_a_list_of_one():
    from twotower.models.objective.self_supervised import two_views

    given = features(n=4000)
    given["genres"] = given["genres"][:, :1]
    view, _ = two_views(given, np.zeros((1, 4), bool), [0, 1], dropout=0.3, lists=["genres"])
    assert np.mean(view["genres"].numpy() == HIDDEN) == pytest.approx(0.3, abs=0.03)


def info_nce(first, second, temperature, rows):
    """The loss in float64, one row at a time."""
    first, second = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (first, second))
    losses = []
    for i, row in enumerate(rows):
        scores = second @ first[i] / temperature
        negatives = scores[np.asarray(rows) != row]
        losses.append(np.log(np.exp(scores[i]) + np.exp(negatives).sum()) - scores[i])
    return np.mean(losses)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [4, 7, 4, 5, 6]])
def test_loss_and_gradients_equal_numpy(rows):
    import tensorflow as tf

    from twotower.models.objective.self_supervised import contrastive_loss

    draw = np.random.default_rng(3)
    views = [tf.constant(draw.normal(size=(5, 3)), tf.float32) for _ in range(2)]
    with tf.GradientTape() as tape:
        tape.watch(views)
        loss = contrastive_loss(*views, 0.3, tf.constant(rows))
    at = [each.numpy().astype(np.float64) for each in views]
    assert float(loss) == pytest.approx(info_nce(*at, 0.3, rows), rel=1e-5)
    for which, gradient in enumerate(tape.gradient(loss, views)):
        slopes = np.zeros((5, 3))
        for place in np.ndindex(5, 3):
            step = np.zeros((5, 3))
            step[place] = 1e-6
            ends = [[*at[:which], at[which] + s, *at[which + 1 :]] for s in (step, -step)]
            slopes[place] = (info_nce(*ends[0], 0.3, rows) - info_nce(*ends[1], 0.3, rows)) / 2e-6
        np.testing.assert_allclose(gradient, slopes, 1e-4, 1e-5)


def test_loss_by_hand():
    """Two items with equal views, orthogonal to each other: log(e^2 + 1) - 2 at temperature 1/2."""
    from twotower.models.objective.self_supervised import contrastive_loss

    views = np.eye(2, dtype=np.float32)
    loss = contrastive_loss(views, 3 * views, 0.5, np.arange(2))
    assert float(loss) == pytest.approx(math.log(math.e**2 + 1) - 2, rel=1e-6)
