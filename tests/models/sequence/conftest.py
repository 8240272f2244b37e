"""A planted order: each of 20 films is followed by one other film."""

from __future__ import annotations

import numpy as np
import pytest

ITEMS, LENGTH = 20, 6
OFFSET = 3  # code of the first item: 0 is padding, 1 null, 2 out of vocabulary


@pytest.fixture(scope="module")
def schema():
    """A user with a history of up to 6 of 20 films, and a film."""
    from merlin.schema import ColumnSchema, Schema, Tags

    def column(name, cardinality, *tags, **properties):
        domain = {"min": 0, "max": cardinality - 1, "name": name}
        tags = [Tags.CATEGORICAL, *tags]
        return ColumnSchema(
            name, dtype=np.int32, tags=tags, properties={"domain": domain, **properties}
        )

    width = {"min": LENGTH, "max": LENGTH}
    seen = column("seen", ITEMS + OFFSET, Tags.USER, Tags.SEQUENCE, value_count=width)
    return Schema(
        [
            column("user", 10, Tags.USER_ID, Tags.USER),
            seen.with_dtype(np.int32, is_list=True, is_ragged=False),
            column("film", ITEMS + OFFSET, Tags.ITEM_ID, Tags.ITEM),
        ]
    )
