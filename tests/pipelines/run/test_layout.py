"""The settings that a step reads: changed ones are named."""

from __future__ import annotations

import json

import pytest

from tests.pipelines.run.conftest import write_step
from twotower.pipelines.errors import RunError


def test_a_changed_setting_is_named_with_the_step_that_reads_it(run):
    write_step(run, "ingest", "data")
    write_step(run, "preprocess", "processed")
    run.override(("split.seed=7", "positives.at_least=4"))
    run.verified("ingest")
    with pytest.raises(RunError, match=r"with another positives\.at_least, split\.seed; leave out"):
        run.verified("preprocess")
    assert run.verified("preprocess", settings=False) == run.path


def test_a_setting_that_an_older_run_lacks_had_its_default(run):
    write_step(run, "ingest", "data")
    write_step(run, "preprocess", "processed")
    manifest = run.manifest
    features = manifest["steps"]["preprocess"]["made_with"]["features"]
    del features["user_numeric"], features["user_multi_hot"], features["min_frequency"]
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    run.verified("preprocess")
    run.override(("features.min_frequency=7",))
    with pytest.raises(RunError, match=r"with another features\.min_frequency; leave out"):
        run.verified("preprocess")


def test_the_addresses_of_a_server_do_not_invalidate_an_export(run):
    for name, folder in (("ingest", "data"), ("preprocess", "processed"), ("train", "model")):
        write_step(run, name, folder)
    write_step(run, "export", "index")
    run.override(("serving.http_port=8000", "serving.keep_versions=9"))
    assert run.verified("export") == run.path
