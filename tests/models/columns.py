"""A column of a schema, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np


def code_column(name: str, cardinality: int, *tags: Any, **properties: Any) -> Any:
    """A column of codes below `cardinality`, categorical and with `tags`."""
    from merlin.schema import ColumnSchema, Tags

    domain = {"min": 0, "max": cardinality - 1, "name": name}
    return ColumnSchema(
        name,
        dtype=np.int32,
        tags=[Tags.CATEGORICAL, *tags],
        properties={"domain": domain, **properties},
    )
