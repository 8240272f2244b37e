"""The conversion of the query tower to ONNX is verified."""

from __future__ import annotations

import pytest

from twotower.serving.runtime.errors import ServingError


def test_an_inexact_onnx_is_refused(world, tmp_path, monkeypatch):
    from twotower.serving.operators import query_tower

    monkeypatch.setattr(query_tower, "TOLERANCE", -1.0)
    tower = query_tower.QueryTower(world.saved_model)
    with pytest.raises(ServingError, match="differs from TensorFlow by"):
        tower.compile(tmp_path, world.workflow.output_schema)
