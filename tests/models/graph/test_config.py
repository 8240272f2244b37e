"""Settings of graph models: wrong combinations are refused by name."""

from __future__ import annotations

import pytest

from twotower.models.config import TwoTowerConfig
from twotower.pipelines.config import load_config
from twotower.pipelines.errors import ConfigError

GRAPH = ("model.graph.layers=1", "model.history_pooling=sum", "model.normalize=false")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": [8]}, r"it needs model.hidden: \[\]"),
        ({"normalize": True}, "it needs model.normalize: False"),
        ({"tie_history": True}, "it needs model.tie_history: False"),
        ({"objective": {"loss": "bpr"}}, "it needs model.objective: {}"),
        ({"sequence": {}}, "sequence|it needs model.history_pooling: mean"),
        ({"graph": {"layers": 0}}, "greater than 0"),
        ({"graph": {"layer": 1}}, "extra fields not permitted"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, message):
    valid = {"graph": {}, "history_pooling": "sum", "normalize": False}
    TwoTowerConfig(**valid)
    with pytest.raises(ValueError, match=message):
        TwoTowerConfig(**{**valid, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((), "model.graph .* needs features.history: a number"),
        (("features.history=9", "features.time=[month]"), r"features.time: \[\]"),
        (("features.history=9", "training.start.l2=3"), "training.start .* model.graph: none"),
    ],
)
def test_data_that_do_not_fit_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_config("synthetic", (*GRAPH, *settings))
    load_config("synthetic", (*GRAPH, "features.history=9"))


def test_a_closed_form_refuses_a_shared_table():
    """Its vectors of the history and of the candidates differ, so one table cannot hold both."""
    settings = ("training.start.l2=3", "features.history=9", *GRAPH[1:], "model.tie_history=true")
    with pytest.raises(ConfigError, match=r"it needs model.tie_history: false"):
        load_config("synthetic", settings)
