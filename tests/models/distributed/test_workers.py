"""Two workers give the gradients, weights and metrics of one process; needs Horovod."""

from __future__ import annotations

import importlib.util
import pickle
import sys

import numpy as np
import pytest

from tests.models.distributed.cases import (
    BATCH,
    FITS,
    GRADIENTS,
    N_UNEVEN,
    fitted,
    gradients,
    mean_loss,
)
from tests.models.distributed.launch import run
from twotower.models.distributed.workers import Workers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("horovod") is None, reason="needs Horovod: make test-horovod"
    ),
]
SECONDS = 580


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each of two workers has computed, by name."""
    folder = tmp_path_factory.mktemp("workers")
    run(2, [sys.executable, "-m", "tests.models.distributed.cases", str(folder)], folder, SECONDS)
    return [pickle.loads((folder / f"worker-{rank}.pickle").read_bytes()) for rank in (0, 1)]


def assert_equal_gradients(ours, expected):
    for mine, theirs in zip(ours, expected, strict=True):
        # The gradient of the candidates' last bias is 0, but for rounding.
        tolerance = 1e-8 + 1e-5 * np.abs(theirs).max()
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("name", GRADIENTS)
def test_gathered_negatives_have_the_gradient_of_one_process_with_both_batches(results, name):
    expected = gradients(GRADIENTS[name], Workers(), 2 * BATCH, gather=False)
    for worker in results:
        assert_equal_gradients(worker[f"{name}, True"], expected)


@pytest.mark.parametrize("name", [name for name in GRADIENTS if name != "streaming logQ"])
def test_without_gathering_the_gradient_is_the_mean_of_both_batches(results, name):
    halves = [
        gradients(GRADIENTS[name], Workers(), BATCH, gather=False, part=(rank, 2))
        for rank in (0, 1)
    ]
    expected = [(ours + theirs) / 2 for ours, theirs in zip(*halves, strict=True)]
    for worker in results:
        assert_equal_gradients(worker[f"{name}, False"], expected)


def test_the_gradient_through_horovods_own_allgather_is_another(results):
    """If this fails, Horovod sums, and `gather_vectors` can be its function."""
    expected = gradients({}, Workers(), 2 * BATCH, gather=False)
    with pytest.raises(AssertionError):
        assert_equal_gradients(results[0]["stock"], expected)


@pytest.mark.parametrize("name", FITS)
def test_all_workers_end_with_the_same_weights_and_history(results, name):
    first, second = (worker[f"fit {name}"] for worker in results)
    for ours, theirs in zip(first["weights"], second["weights"], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for key in ("loss", "val_ndcg@10"):
        assert first["history"][key] == second["history"][key]
    assert len(first["history"]["loss"]) == 3


@pytest.mark.parametrize("name", FITS)
def test_only_the_first_worker_validates_and_writes(results, name):
    first, second = (worker[f"fit {name}"] for worker in results)
    assert (first["validations"], second["validations"]) == (3, 0)
    assert (first["has files"], second["has files"]) == (True, False)


@pytest.mark.parametrize("name", FITS)
def test_the_metric_of_the_best_epoch_is_that_of_the_final_weights(results, name):
    for worker in results:
        result = worker[f"fit {name}"]
        assert result["metric"] == max(result["history"]["val_ndcg@10"])


def test_a_training_with_gathered_negatives_is_that_of_one_process(results, tmp_path):
    expected = fitted({}, tmp_path, 2 * BATCH)
    ours = results[0]["fit gathered"]
    np.testing.assert_allclose(ours["history"]["loss"], expected["history"]["loss"], rtol=1e-4)
    assert ours["history"]["val_ndcg@10"] == pytest.approx(
        expected["history"]["val_ndcg@10"], abs=2e-3
    )
    for mine, theirs in zip(ours["vectors"], expected["vectors"], strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-3)
    # Other negatives are another training, which the comparison above would notice.
    other = results[0]["fit even"]["vectors"][0]
    assert np.abs(other - expected["vectors"][0]).max() > 1e-2


def test_the_loss_of_an_uneven_epoch_is_the_mean_over_its_positives(results):
    expected = mean_loss({}, N_UNEVEN)
    for worker in results:
        losses = worker["fit still"]["history"]["loss"]
        assert losses[0] == pytest.approx(expected, rel=1e-5)


def test_an_interrupted_training_ends_as_an_uninterrupted_one(results):
    for worker in results:
        for ours, expected in zip(worker["resumed"], worker["fit random"]["weights"], strict=True):
            np.testing.assert_array_equal(ours, expected)


def test_the_first_worker_initializes_the_weights_of_all(results):
    assert [worker["initialized"]["calls"] for worker in results] == [[1], []]
    for worker in results:
        for weight in worker["initialized"]["weights"]:
            np.testing.assert_array_equal(weight, np.full_like(weight, 2.0))
