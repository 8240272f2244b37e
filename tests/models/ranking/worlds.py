"""Columns of made-up users and items, as the feature graph describes them."""

from __future__ import annotations

import numpy as np
from merlin.schema import ColumnSchema, Tags


def column(name: str, size: int, width: int = 1) -> ColumnSchema:
    """Return a categorical column with codes below `size`, or lists of `width` codes."""
    properties = {"domain": {"min": 0, "max": size - 1, "name": name}}
    if width > 1:
        properties["value_count"] = {"min": width, "max": width}
    return ColumnSchema(
        name,
        dtype=np.int32,
        tags=[Tags.CATEGORICAL],
        properties=properties,
        is_list=width > 1,
        is_ragged=False,
    )
