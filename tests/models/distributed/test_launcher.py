"""The place of a worker, by the environment of its launcher."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.models.distributed.cases import BATCH, gradients
from twotower.models.config import TwoTowerConfig
from twotower.models.distributed.launcher import LAUNCHERS, Place, place, unsupported
from twotower.models.distributed.workers import Workers, join_workers
from twotower.models.errors import ModelError


@pytest.fixture(autouse=True)
def without_launcher(monkeypatch):
    for name in (name for names in LAUNCHERS for name in names):
        monkeypatch.delenv(name, raising=False)


def test_without_a_launcher_a_process_is_alone():
    assert place() == Place(rank=0, size=1)
    assert type(join_workers.__wrapped__()) is Workers


@pytest.mark.parametrize(("rank", "size"), LAUNCHERS)
def test_a_launcher_says_which_worker_this_is(monkeypatch, rank, size):
    monkeypatch.setenv(rank, "2")
    monkeypatch.setenv(size, "4")
    assert place() == Place(rank=2, size=4)


def test_a_place_that_is_no_number_is_named(monkeypatch):
    monkeypatch.setenv("HOROVOD_RANK", "one")
    monkeypatch.setenv("HOROVOD_SIZE", "2")
    with pytest.raises(ModelError, match="HOROVOD_RANK=one and HOROVOD_SIZE=2 must be whole"):
        place()


def test_a_worker_without_horovod_says_how_to_install_it(monkeypatch):
    monkeypatch.setenv("HOROVOD_RANK", "1")
    monkeypatch.setenv("HOROVOD_SIZE", "2")
    for name in ("horovod", "horovod.tensorflow", "horovod.tensorflow.keras"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModelError, match=r"worker 1 of 2, but Horovod is not installed.*make horo"):
        join_workers.__wrapped__()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, None),
        ({"objective": {"negatives": "mixed"}}, None),
        ({"objective": {"negatives": "cross_batch"}}, "model.objective.negatives: cross_batch"),
        ({"sequence": {}}, "model.sequence"),
        ({"graph": {}, "history_pooling": "sum", "normalize": False}, "model.graph"),
    ],
)
def test_settings_that_several_workers_cannot_train_are_named(settings, name):
    message = unsupported(TwoTowerConfig(**settings))
    if name is None:
        assert message is None
    else:
        assert message.startswith(f"{name} cannot be trained by several workers; run `twotower tr")


def test_one_process_gathers_its_own_negatives():
    """So that the setting does not change the training of one process."""
    found, expected = (gradients({}, Workers(), BATCH, gather=gather) for gather in (True, False))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
