"""A fit that is interrupted, for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from twotower.models.training.config import TrainingConfig
from twotower.models.training.data import TrainingData
from twotower.models.training.fit import fit
from twotower.models.training.model import TwoTower


class Killed(Exception):
    """Stands for anything that ends a process during a fit."""


def fit_until(
    steps: int,
    tower: TwoTower,
    data: TrainingData,
    config: TrainingConfig,
    validate: Callable[[Any], Mapping[str, float]],
    folder: Path,
) -> None:
    """Fit until `steps` steps are done, then stop without saving anything."""

    def kill(step: int, *_: object) -> None:
        if step == steps:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        # Report every step, not four per second.
        patch.setattr("twotower.models.training.callbacks.REPORT_SECONDS", 0.0)
        with pytest.raises(Killed):
            fit(tower, data, config, validate, folder, progress=kill)
