"""Windows of sequences and the batches made of them."""

from __future__ import annotations

import numpy as np
import pytest

from twotower.models.sequence.batches import Sequences, Windows, batch_of, epoch_windows


def sequences_of(*lengths):
    items = np.arange(sum(lengths), dtype=np.int32)
    return Sequences(items, np.concatenate([[0], np.cumsum(lengths)]))


@pytest.mark.parametrize(("length", "stride"), [(4, 4), (4, 1), (4, 3), (50, 50)])
def test_each_item_but_the_first_of_a_user_is_predicted_once(length, stride):
    sequences = sequences_of(0, 1, 2, 5, 6, 23, 3)
    for seed in range(5):
        parts = epoch_windows(sequences, length=length, stride=stride, batch_size=7, seed=[seed, 0])
        read = [batch_of(sequences, part) for part in parts]
        predicted = np.concatenate([each.targets for each in read])
        expected = np.delete(sequences.items, sequences.offsets[:-1][1:])
        np.testing.assert_array_equal(np.sort(predicted), expected)
        for batch in read:
            before = batch.inputs.ravel()[batch.places]
            np.testing.assert_array_equal(batch.targets, before + 1)  # the next in time
            assert batch.inputs.shape[1] <= length
            assert len(batch.targets) <= 7 + length


def test_a_batch_by_hand():
    sequences = Sequences(np.array([10, 11, 12, 20, 21, 22, 23]), np.array([0, 3, 7]))
    part = Windows(np.array([0, 3]), np.array([2, 6]), np.array([2, 1]))
    batch = batch_of(sequences, part)
    np.testing.assert_array_equal(batch.inputs, [[-1, 11, 10], [22, 21, 20]])
    np.testing.assert_array_equal(batch.places, [1, 2, 3])
    np.testing.assert_array_equal(batch.targets, [12, 11, 23])


def test_epochs_differ_and_repeat():
    sequences = sequences_of(*range(2, 30))

    def first_targets(seed):
        parts = epoch_windows(sequences, length=8, stride=8, batch_size=20, seed=[1, seed])
        return [batch_of(sequences, part).targets.tolist() for part in parts]

    assert first_targets(0) == first_targets(0)
    assert first_targets(0) != first_targets(1)


def test_unknown_items_are_left_out():
    number = np.array([0, -1, 1])
    kept = Sequences(np.array([2, 1, 0, 1, 1, 2]), np.array([0, 3, 5, 6])).kept(number)
    np.testing.assert_array_equal(kept.items, [1, 0, 1])
    np.testing.assert_array_equal(kept.offsets, [0, 2, 2, 3])
