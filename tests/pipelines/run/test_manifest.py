"""A damaged manifest or configuration, and one of another version, are explained."""

from __future__ import annotations

import json

import pytest

from tests.pipelines.run.conftest import write_step
from twotower.pipelines.config import load_config
from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.run import Run


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"steps": {"ing', "Unterminated string"),
        ("", "Expecting value: line 1 column 1"),
        ("[]", "it has no `steps`"),
        ("{}", "it has no `steps`"),
        ('{"steps": 3}', "`steps` is not a section"),
    ],
)
def test_the_advice_on_a_damaged_manifest_works(run, text, problem):
    write_step(run, "ingest", "data")
    (run.path / "manifest.json").write_text(text)
    with pytest.raises(RunError) as error:
        run.verified("ingest")
    told = str(error.value)
    assert told.startswith("runs/synthetic/manifest.json: damaged (") and problem in told
    with pytest.raises(RunError, match="damaged"), run.step("ingest"):
        raise AssertionError("the work began")
    assert "`twotower run --config runs/synthetic/config.yaml --run runs/synthetic`" in told
    # Follow the advice: remove the file and run again with the configuration of the run.
    (run.path / "manifest.json").unlink()
    again = Run.create(load_config(run.path / "config.yaml"), run.path)
    write_step(again, "ingest", "data")
    assert again.verified("ingest")


def test_an_entry_of_another_version_is_explained(run):
    write_step(run, "ingest", "data")
    path = run.path / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["steps"]["ingest"]["made_with"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(
        RunError, match=r"another version .* recorded `ingest`, without 'made_with'"
    ):
        run.verified("ingest")
    with pytest.raises(
        RunError,
        match=r"another version .* recorded `ingest`, without 'summary'; run `twot",
    ):
        run.notes("ingest")["summary"]
    write_step(run, "ingest", "data")  # as told
    assert run.verified("ingest")


def test_a_damaged_configuration_is_named_with_its_place(run):
    write_step(run, "ingest", "data")
    path = run.path / "config.yaml"
    path.write_text(path.read_text() + "model: [\n")
    with pytest.raises(
        ConfigError, match=r"runs/synthetic/config\.yaml, line \d+, column 1: not Y"
    ):
        Run(run.path)


def test_a_configuration_of_another_version_is_explained(run):
    write_step(run, "ingest", "data")
    path = run.path / "config.yaml"
    path.write_text(path.read_text().replace("training:\n", "training:\n  flavour: 3\n"))
    with pytest.raises(ConfigError, match=r"(?s)training\.flavour: no such key.*another version"):
        Run(run.path)
