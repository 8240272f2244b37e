"""Comparisons: a real one that is killed and called again; the others with fake trainings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from click.testing import CliRunner

from tests.pipelines.conftest import prepared
from tests.pipelines.test_lock import in_a_thread
from twotower.pipelines.cli import main
from twotower.pipelines.config import CONFIGS, parse
from twotower.pipelines.errors import ChildError, ConfigError
from twotower.pipelines.experiments.compare import compare
from twotower.pipelines.experiments.comparison import CompareConfig
from twotower.pipelines.lock import writing

ROOT = Path(__file__).resolve().parents[3]
SMOKE = CONFIGS / "compare" / "smoke.yaml"


def written(folder: Path, **changes) -> Path:
    """Write the smoke file with other values into `folder`."""
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(SMOKE.read_text()), **changes}))
    return path


def quality(trial) -> float:
    """Return a fake valid metric that grows with logQ and the seed."""
    if trial.baseline:
        return 0.25
    return 0.1 + 0.2 * trial.config.model.logq + 0.01 * trial.config.training.seed


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """Replace data and training: results follow from the settings. Returns what was measured."""
    monkeypatch.chdir(tmp_path)
    measured = []

    def measure_in_subprocess(trial, state, log, on_metrics):
        measured.append(trial.baseline or (trial.config.model.hidden, trial.config.training.seed))
        if trial.config.model.hidden and not trial.baseline:
            raise ChildError("the memory is too small", log)
        values = {
            f"{metric}@10": quality(trial)
            for metric in ("ndcg", "recall", "coverage", "popularity", "head_recall")
        }
        on_metrics(values)
        return {"seconds": 2.0, "valid": values, "test": values, "epochs": 1, "best_epoch": 1}

    module = "twotower.pipelines.experiments.compare"
    monkeypatch.setattr(f"{module}.measure_in_subprocess", measure_in_subprocess)
    monkeypatch.setattr(f"{module}.prepare", prepared)
    return measured


@pytest.mark.slow
def test_a_killed_comparison_continues_and_keeps_finished_results(tmp_path):
    file = written(
        tmp_path,
        baselines=["popularity"],
        seeds=[3],
        variants={"sum": {"set": {"training.epochs": 2}}},
    )
    command = [
        sys.executable,
        "-m",
        "twotower.pipelines.cli",
        "compare",
        "--config",
        str(file),
        "--docs",
        "docs",
    ]
    how = {
        "cwd": tmp_path,
        "env": {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        "text": True,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
    }
    results = tmp_path / "compare" / "smoke" / "results"
    process = subprocess.Popen(command, **how)
    deadline = time.monotonic() + 240
    while not list(results.glob("popularity-*.json")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not psutil.wait_procs(children, timeout=10)[1], "no process is left after a kill"
    (finished,) = results.glob("*.json")
    before = finished.stat().st_mtime_ns
    again = subprocess.run(command, **how, check=False)
    assert again.returncode == 0, again.stdout
    assert "1 of 2 results exist already" in again.stdout
    assert "sum, seed 3  valid ndcg@10" in again.stdout and "0 left" in again.stdout
    assert finished.stat().st_mtime_ns == before
    (training,) = results.glob("sum-seed3-*.json")
    result = json.loads(training.read_text())["result"]
    assert result["epochs"] == 2 and len(result["curve"]["seconds"]) == 2
    assert not list((tmp_path / "compare" / "smoke" / "training").glob("*"))
    names = {path.name for path in (tmp_path / "docs" / "smoke").glob("*")}
    pictures = {"quality.png", "thirds.png", "diversity.png", "curves.png"}
    assert names == {"table.md"} | pictures
    assert (tmp_path / "compare" / "smoke" / "report.html").is_file()
    assert not (tmp_path / "runs").exists(), "the last run is still the last run"


def test_a_second_comparison_at_the_same_time_is_refused_and_removes_nothing(made_up, tmp_path):
    folder = tmp_path / "compare" / "smoke"
    state = folder / "training" / "another-training"
    state.mkdir(parents=True)
    with writing(folder, "compare"):
        message = in_a_thread(lambda: compare(SMOKE))
    assert message.startswith("compare/smoke: `compare` (process ")
    assert state.is_dir() and not made_up


def test_a_failed_variant_is_reported_and_tried_again_and_the_others_continue(made_up, capsys):
    found = compare(SMOKE)
    baselines, seeds = ["popularity", "itemknn", "ease"], (1, 2)
    assert made_up == baselines + [(hidden, s) for s in seeds for hidden in ([], [64], [])]
    assert {(each.row, each.seed) for each in found.failed} == {("hidden", 1), ("hidden", 2)}
    printed = capsys.readouterr().out
    assert "hidden, seed 2   failed: the memory is too small (its output: compare/smoke" in printed
    page = Path("compare/smoke/report.html").read_text()
    assert "hidden, seed 1 failed: the memory is too small" in page
    made_up.clear()
    again = compare(SMOKE)
    assert made_up == [([64], 1), ([64], 2)]
    assert [each.result for each in again.outcomes] == [each.result for each in found.outcomes]


def test_a_training_is_repeated_only_when_its_settings_change(made_up, tmp_path):
    variants = {"a": {}, "b": {"set": {"model.temperature": 0.3}}}
    compare(written(tmp_path, variants=variants, seeds=[1]))
    made_up.clear()
    variants["b"]["set"]["model.temperature"] = 0.4
    variants["a"]["about"] = "another text"
    found = compare(written(tmp_path, variants=variants, seeds=[1, 5]))
    assert made_up == [([], 1), ([], 5), ([], 5)]  # b with seed 1; both with seed 5
    assert not found.failed


def test_json_has_the_rows_of_the_table(made_up, tmp_path):
    file = written(tmp_path, variants={"a": {}}, seeds=[1])
    done = CliRunner().invoke(main, ["compare", "--config", str(file), "--json"])
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found == json.loads(Path("compare/smoke/rows.json").read_text())
    assert {row["name"] for row in found} == {"a", "popularity", "itemknn", "ease"}


def test_an_override_on_the_command_line_applies_to_all_variants(made_up, tmp_path):
    file = written(tmp_path, variants={"a": {}}, seeds=[1], set={"model.dim": 8})
    found = compare(file, overrides=("model.logq=0", "model.dim=16"))
    assert found.outcomes[-1].result["valid"]["ndcg@10"] == pytest.approx(0.11)
    page = Path("compare/smoke/report.html").read_text()
    assert "model.logq: 0" in page and "model.dim: 16" in page
    with pytest.raises(ConfigError, match=r"model\.dimm: no such key"):
        compare(file, overrides=("model.dimm=16",))


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"seedz": [1]},
            "seedz: no such key; did you mean seeds? known here: about, base, baselines, name",
        ),
        ({"variants": {}}, "variants: empty; add at least one variant"),
        (
            {"variants": {"a": {"abuot": "x"}}},
            "variants.a.abuot: no such key; did you mean variants.a.about? kn",
        ),
        ({"variants": {"a/b": {}}}, "variants.__key__: 'a/b' cannot be the name of a folder"),
        ({"variants": {"ease": {}}}, "variant ease: a baseline has this name"),
        (
            {"variants": {"a": {}, "b": {"set": {"model.temprature": 1}}}},
            "variant b: wrong configuration\n  model.temprature: no such key; did you mean model.t",
        ),
        (
            {"variants": {"b": {"set": {"model.temperature": -1}}}},
            "variant b: wrong configuration\n  model.temperature: ensure this value is greater",
        ),
        ({"variants": {"b": {"set": {"model.dim.x": 1}}}}, "variant b: dim is a value"),
        (
            {"variants": {"b": {"set": {"split.k_core": 2}}}},
            "variant b: split.k_core must be the same",
        ),
        ({"variants": {"b": {"set": {"training.seed": 2}}}}, "b: training.seed must be the same"),
        ({"set": {"training.seed": 2}}, "set: training.seed: use `seeds` at the top level"),
        ({"set": {"training.monitor": "ndcg@7"}}, "'ndcg@7' is not measured; choose one of recall"),
        (
            {"base": "ml-2m"},
            "base: ml-2m: no such configuration; give a YAML file, or the name of one in con",
        ),
        ({"seeds": []}, "seeds: ensure this value has at least 1 item"),
    ],
)
def test_mistakes_are_reported_before_any_training(made_up, tmp_path, changes, message):
    with pytest.raises(ConfigError) as error:
        compare(written(tmp_path, **changes))
    assert message in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'plan.yaml'}: ")
    assert not made_up


def test_a_relative_data_path_becomes_absolute(tmp_path, monkeypatch):
    """The run folder with the prepared data has absolute paths, so the trainings must, too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for name in ("u.data", "u.user", "u.item"):
        (tmp_path / "here" / name).write_text("")
    changes = {"base": "ml-100k", "set": {}}
    plan = parse(CompareConfig, {**yaml.safe_load(SMOKE.read_text()), **changes}, "plan")
    tree = plan.common(Path("plan.yaml"), Path("here"))
    assert tree["ingest"]["path"] == str(tmp_path / "here")


def test_a_missing_file_is_an_error_that_lists_the_shipped_ones(made_up, tmp_path):
    with pytest.raises(ConfigError, match=r"nothing.yaml: no such .* configs/compare/: .*smoke"):
        compare(tmp_path / "nothing.yaml")
