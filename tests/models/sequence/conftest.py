"""A planted order: each of 20 films is followed by one other film."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.columns import code_column

ITEMS, LENGTH = 20, 6
OFFSET = 3  # code of the first item: 0 is padding, 1 null, 2 out of vocabulary


@pytest.fixture(scope="module")
def schema():
    """A user with a history of up to 6 of 20 films, and a film."""
    from merlin.schema import Schema, Tags

    width = {"min": LENGTH, "max": LENGTH}
    seen = code_column("seen", ITEMS + OFFSET, Tags.USER, Tags.SEQUENCE, value_count=width)
    return Schema(
        [
            code_column("user", 10, Tags.USER_ID, Tags.USER),
            seen.with_dtype(np.int32, is_list=True, is_ragged=False),
            code_column("film", ITEMS + OFFSET, Tags.ITEM_ID, Tags.ITEM),
        ]
    )
