"""Configurations: every shipped one loads, overrides work, mistakes are named."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from pipelines.config import CONFIGS, load_config, parse_config, to_yaml
from pipelines.errors import ConfigError


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_configuration_loads_and_survives_a_round_trip(path):
    config = load_config(path)
    assert config.name == path.stem
    assert parse_config(yaml.safe_load(to_yaml(config)), "copy") == config


def test_overrides_reach_any_depth_and_are_typed():
    config = load_config(
        CONFIGS / "ml-1m.yaml",
        ("training.epochs=3", "model.hidden=[64, 32]", "features.item_multi_hot.genres=2"),
    )
    assert config.training.epochs == 3
    assert config.model.hidden == [64, 32]
    assert config.features.item_multi_hot == {"genres": 2}


def test_an_override_keeps_its_neighbours():
    config = load_config(CONFIGS / "ml-1m.yaml", ("split.seed=7",))
    assert (config.split.seed, config.split.k_core) == (7, 10)


@pytest.mark.parametrize(
    "override, message",
    [
        ("training.epoch=3", r"training\.epoch: no such key; known here: batch_size, checkpoint"),
        ("trainning.epochs=3", r"trainning: no such key; known here: evaluation, features"),
        ("training.epochs=many", r"training\.epochs: value is not a valid integer"),
        ("training.epochs=0", r"training\.epochs: ensure this value is greater than 0"),
        ("model.temperature=-1", r"model\.temperature: ensure this value is greater than 0"),
        ("split.method=chance", r"split\.method: unexpected value; permitted: 'random'"),
        ("training.epochs", r"--set training\.epochs: expected section\.key=value"),
        ("name.first=a", r"--set name\.first: name is a value, not a section"),
        ("model.hidden=[1", r"--set model\.hidden=\[1: the value is not YAML"),
        ("name=../elsewhere", r"name: string does not match"),
        ("model.buckets=8", r"\n  model\.buckets are of numbers: name some under"),
        ("model.mimic_weight=1", r"\n  model: mimic_weight needs hidden layers"),
    ],
)
def test_a_mistake_is_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(CONFIGS / "ml-1m.yaml", (override,))


def test_a_missing_file_lists_the_shipped_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.yaml: no such.*ml-100k, .*ml-1m, "):
        load_config(tmp_path / "nothing.yaml")


@pytest.mark.parametrize("text", ["a: [1", "- just\n- a list"])
def test_a_file_that_is_not_a_configuration_is_named(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml: (not YAML|expected `key: value`)"):
        load_config(path)


def test_help_imports_nothing_heavy():
    code = (
        "import sys, pipelines.cli as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'tensorflow', 'nvtabular', 'merlin', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout
