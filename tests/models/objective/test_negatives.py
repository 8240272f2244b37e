"""Strategies for negatives: which losses they can be used with, and what they draw."""

from __future__ import annotations

import numpy as np
import pytest

from twotower.models.objective.config import ObjectiveConfig
from twotower.models.objective.losses import LOSSES
from twotower.models.objective.negatives import SAMPLERS

PAIRWISE = {"bce", "bpr", "hinge", "cosine_regression", "cosine_contrastive"}
USABLE = {
    "in_batch": {"softmax", *PAIRWISE},
    "uniform": {"softmax", "gbce", *PAIRWISE},
    "popularity": {"softmax", *PAIRWISE},
    "mixed": {"softmax", *PAIRWISE},
    "all": {"softmax", "squared"},
    "cross_batch": {"softmax"},
    "mined": PAIRWISE,
}


@pytest.mark.parametrize("negatives", SAMPLERS)
def test_a_strategy_is_accepted_with_its_losses_only(negatives):
    accepted = set()
    for loss in LOSSES:
        try:
            ObjectiveConfig(loss=loss, negatives=negatives)
        except ValueError as error:
            assert f"loss {loss} cannot be used with negatives {negatives}" in str(error)
        else:
            accepted.add(loss)
    assert accepted == USABLE[negatives]


@pytest.mark.parametrize("negatives", SAMPLERS)
def test_a_strategy_draws_rows_of_the_catalogue(negatives):
    loss = "bpr" if negatives == "mined" else "softmax"
    sampler = ObjectiveConfig(loss=loss, negatives=negatives, drawn=500).sampler(np.arange(9))
    drawn = sampler.draw([1, 2])
    if negatives in ("in_batch", "cross_batch", "mined"):
        assert drawn is None
    else:
        expected = range(9)[1:] if negatives == "popularity" else range(9)
        assert drawn.dtype == "int32" and set(drawn.numpy()) == set(expected)


@pytest.mark.parametrize("setting", ["loss", "negatives"])
def test_the_description_of_a_setting_names_all_its_values(setting):
    description = ObjectiveConfig.__fields__[setting].field_info.description
    for name in {"loss": LOSSES, "negatives": SAMPLERS}[setting]:
        assert f"{name}: " in description
