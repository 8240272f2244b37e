"""Settings of sequence models: wrong combinations are refused by name."""

from __future__ import annotations

import pytest

from twotower.models.config import TwoTowerConfig
from twotower.pipelines.config import load_config
from twotower.pipelines.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": [8]}, r"it needs model.hidden: \[\]"),
        ({"history_pooling": "sum"}, "it needs model.history_pooling: mean"),
        ({"objective": {"loss": "bpr"}}, "it needs model.objective: {}"),
        ({"dim": 9}, "sequence.heads is 2, which does not divide dim, 9"),
        ({"sequence": {"kind": "gru", "blocks": 3}}, "blocks applies to kind transformer only"),
        ({"sequence": {"last_item": True}}, "last_item applies to kind decay only; remove it"),
        ({"sequence": {"kind": "rnn"}}, "unexpected value"),
        ({"sequence": {"block": 1}}, "extra fields not permitted"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TwoTowerConfig(**{"sequence": {}, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((), "features.history: a number"),
        (("features.history=600",), "features.history: at most 512 for a transformer"),
        (("features.history=9", "model.sequence.stride=10"), "stride: at most features.history, 9"),
        (("features.history=9", "features.time=[month]"), r"features.time: \[\]"),
        (("features.history=9", "positives.weight=rating"), "it needs positives: no weights"),
    ],
)
def test_data_that_do_not_fit_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_config("synthetic", ("model.sequence.kind=transformer", *settings))
    load_config("synthetic", ("model.sequence.kind=transformer", "features.history=9"))
