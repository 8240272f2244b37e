"""Values of Python become arrays of Triton's types."""

from __future__ import annotations

import numpy as np
import pytest

from twotower.serving.client.values import _cast


def test_arrays_of_integers_are_cast_as_a_whole(monkeypatch):
    monkeypatch.setattr(
        "twotower.serving.client.values._convert", lambda *_: pytest.fail("value by value")
    )
    ids = np.arange(256, dtype=np.uint32)
    cast = _cast("user_id", ids, "INT64", nullable=False)
    assert cast.dtype == np.int64 and cast.tolist() == ids.tolist()
