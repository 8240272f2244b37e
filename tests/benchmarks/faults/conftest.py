"""A small published run for the tests of kills and pairs."""

from __future__ import annotations

import pytest

from benchmarks.faults.prepare import PreparedRun, prepare_run


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> PreparedRun:
    return prepare_run(tmp_path_factory.mktemp("prepared"), seed=1, days=50)
