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


class SlowState:
    """A state whose checkpoint takes `seconds` of a clock that only it moves."""

    def __init__(self, seconds):
        from twotower.models.training.checkpoint import Progress

        self.progress, self.seconds, self.now, self.saved = Progress(), seconds, 0.0, []

    def save(self):
        self.saved.append(self.now)
        self.now += self.seconds


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.5, [31, 62.5, 94]),  # of the 30 seconds that are set
        (2, [31, 94]),  # then 60 seconds after the end of the first one, at 33
    ],
)
def test_checkpoints_that_take_long_are_written_less_often(monkeypatch, seconds, expected):
    """Steps take 1 second; a step that ends more than the pause after the last save saves."""
    from twotower.models.training import callbacks
    from twotower.models.training.config import TrainingConfig

    state = SlowState(seconds)
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: state.now)
    validation = callbacks.Validation(state, lambda model: {}, TrainingConfig())
    validation.params = {"steps": 10_000}
    validation.on_epoch_begin(0)
    step = 0
    while state.now < 100:
        state.now += 1
        validation.on_train_batch_end(step, {"loss": 1.0})
        step += 1
    assert state.saved == expected
