"""What the command lines of the benchmarks refuse before they start."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from benchmarks.serving.__main__ import main as serving
from benchmarks.training.__main__ import main as training


@pytest.mark.parametrize("benchmark", [training, serving], ids=["training", "serving"])
def test_a_missing_load_generator_is_reported_first(benchmark, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    # The folder has no ratings, so that any work on them would fail with another message.
    result = CliRunner().invoke(benchmark, ["--data", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output == "Error: wrk is missing: apt-get install wrk\n"
