"""The callbacks of a fit."""

from __future__ import annotations

import math

import pytest


def test_the_learning_rate_rises_in_the_warm_up_and_falls_with_the_epochs():
    """Epochs have 3 steps, the warm-up 4; the second epoch is resumed after its first step."""
    import tensorflow as tf

    from twotower.models.training.callbacks import LearningRate

    model = tf.keras.Sequential()
    model.optimizer = tf.keras.optimizers.Adam()
    callback = LearningRate(0.8, 0.5, warmup=4)
    callback.set_model(model)
    rates = []
    for epoch, batches in ((0, 3), (1, 1), (1, 2)):
        callback.on_epoch_begin(epoch)
        for batch in range(batches):
            callback.on_train_batch_begin(batch)
            rates.append(float(model.optimizer.learning_rate))
            model.optimizer.iterations.assign_add(1)
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.4, 0.4, 0.4])


def test_averages_follow_the_weights_and_give_them_back():
    import tensorflow as tf

    from twotower.models.training.callbacks import WeightAverages

    weight = tf.Variable([0.0, 8.0])  # each step halves what is left of it in the average
    averages = WeightAverages([weight], steps=1 / math.log(2))
    for values in ([1.0, 8.0], [3.0, 0.0]):
        weight.assign(values)
        averages.update()
    with averages.applied():
        assert weight.numpy().tolist() == pytest.approx([1.75, 4.0])
    assert weight.numpy().tolist() == [3.0, 0.0]
    averages.start()
    with averages.applied():
        assert weight.numpy().tolist() == [3.0, 0.0]
