"""Facts of data frames, for the tests of the guesses."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest

from twotower.pipelines.init.facts import Facts, facts_of_frame
from twotower.pipelines.init.guess import guess


def facts(frame: pd.DataFrame) -> dict[str, Facts]:
    """The facts of a data frame."""
    return facts_of_frame(pa.Table.from_pandas(frame, preserve_index=False))


@pytest.fixture
def facts_of():
    return facts


@pytest.fixture
def guess_of():
    """Guess what the columns of data frames mean."""

    def call(frame, sides=None, **options):
        tables = {role: facts(side) for role, side in (sides or {}).items()}
        return guess(facts(frame), tables, **options)

    return call
