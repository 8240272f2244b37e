"""Configurations: every shipped one loads, overrides work, errors name the mistake."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from twotower.pipelines.config import (
    CONFIGS,
    Config,
    find_config,
    load_config,
    parse_config,
    read_overrides,
    set_keys,
    to_yaml,
)
from twotower.pipelines.errors import ConfigError


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
        (
            "training.epoch=3",
            r"training\.epoch: .*; did you mean training\.epochs\? known here: average, ba",
        ),
        (
            "trainning.epochs=3",
            r"trainning: no such key; did you mean training( or ranking)?\? known here: dask, eva",
        ),
        (
            "epochs=3",
            r"epochs: no such key; did you mean training\.epochs or update\.epochs or "
            r"ranking\.epochs\? kn",
        ),
        (
            "model.batch_size=8",
            r"model\.batch_size: .* mean training\.batch_size or evaluation\.batch_size\? known",
        ),
        ("model.zzz=8", r"model\.zzz: no such key; known here: buckets, "),
        ("training.epochs=many", r"training\.epochs: value is not a valid integer"),
        ("training.epochs=0", r"training\.epochs: ensure this value is greater than 0"),
        (
            "model.temperature=-1",
            r"model\.temperature: ensure this value is greater than or equal to 0\.0001",
        ),
        ("split.method=chance", r"split\.method: unexpected value; permitted: 'random'"),
        ("training.epochs", r"--set training\.epochs: expected section\.key=value"),
        ("name.first=a", r"--set name\.first: name is a value, not a section"),
        ("model.hidden=[1", r"--set model\.hidden=\[1: the value is not YAML"),
        ("name=../elsewhere", r"name: '../elsewhere' cannot be the name of a folder; use letters"),
        ("model.buckets=8", r"\n  model\.buckets bins numeric features, but there are none"),
        ("model.mimic_weight=1", r"\n  model: mimic_weight needs hidden layers"),
    ],
)
def test_a_wrong_override_is_an_error_that_names_it(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(CONFIGS / "ml-1m.yaml", (override,))


def test_a_missing_file_lists_the_shipped_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.yaml: no such.*ml-100k, .*ml-1m"):
        load_config(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", r"bad\.yaml, line 1, column 6: not YAML: expected ',' or ']', but got"),
        (
            "a: 1\nb:\tc: 2",
            r"bad\.yaml, line 2, column 3: not YAML: found character '\\t' that cannot",
        ),
        ("- just\n- a list", r"bad\.yaml: expected `key: value` lines, found list"),
        ("a: 1\nb: 2\na: 3", r"bad\.yaml, line 3, column 1: not YAML: a occurs twice in this sect"),
        ("a:\n  b: 1\n  b: 2", r"bad\.yaml, line 3, column 3: not YAML: b occurs twice"),
        ("", r"bad\.yaml: the file is empty; expected `key: value` lines, see configs/"),
        ("# only a comment", r"bad\.yaml: the file is empty"),
        ("name: 2024-13-45", r"bad\.yaml: not YAML: month must be in 1\.\.12"),
        ("a: \x00", r"bad\.yaml: not YAML: unacceptable character #x0000"),
    ],
)
def test_an_invalid_file_is_an_error_with_the_line(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_a_file_that_is_not_utf_8_is_an_error(tmp_path):
    (tmp_path / "bad.yaml").write_bytes("name: Übung".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"(?s)bad\.yaml: not YAML: .*#x00dc.*position 6"):
        load_config(tmp_path / "bad.yaml")


SYNTHETIC = {"name": "made-up", "ingest": {"source": "synthetic"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ingest": "ml-1m"},
            r"ingest: expected a section with keys, found 'ml-1m'; known here",
        ),
        ({"ingest": ["ml-1m"]}, r"ingest: expected a section .* found \['ml-1m'\]; known here: al"),
        ({"training": None}, r"training: no value; give it one, or leave it out"),
        ({"training": {"start": 3}}, r"training\.start: expected a section .*: l2, max_memory"),
        ({1: 2}, r"\n  YAML does not read the key 1 as text; put it in quotes: '1'"),
        (
            {"features": {"item_multi_hot": {1990: 3}}},
            r"features\.item_multi_hot: YAML does not re",
        ),
        ({"model": {True: 3}}, r"model: YAML does not read the key True as text; put it"),
        ({"training": {"epochs": 2.9}}, r"training\.epochs: 2\.9 is not a whole number"),
        ({"training": {"epochs": True}}, r"training\.epochs: True is not a whole number"),
        ({"model": {"hidden": [64.5]}}, r"model\.hidden\.0: 64\.5 is not a whole number"),
        ({"show": [False]}, r"show\.0: YAML does not read False as text; put it in quotes"),
        ({"features": {"item": [1.10]}}, r"features\.item\.0: YAML does not read 1\.1 as text"),
        ({"name": "last"}, r"name: runs/last is the file that names the run used last"),
        ({"name": "one\n"}, r"name: 'one\\n' cannot be the name of a folder"),
        ({"name": "a/b"}, r"name: 'a/b' cannot be the name of a folder; use letters, digits"),
        ({"name": ".."}, r"name: '\.\.' cannot be the name of a folder"),
        ({"name": ""}, r"name: '' cannot be the name of a folder"),
        ({"name": "a" * 101}, r"name: ensure this value has at most 100 characters"),
        ({"split": {"ratios": [0.9, 0, 0.1]}}, r"split\.ratios: valid has a share of 0, but valid"),
        (
            {"split": {"method": "temporal", "ratios": [0.9, 0.1, 0]}},
            r"split\.ratios: test has a share of 0, but .* such as \[0\.8, 0\.1, 0\.1\]",
        ),
        (
            {"training": {"monitor": "ndcg@11"}},
            r"training\.monitor: 'ndcg@11' is not measured; choose one of recall, ndcg, .*, with @ "
            r"and one of evaluation\.ks \(10, 20, 50, 100\), such as ndcg@10",
        ),
        ({"training": {"monitor": "ndcg"}}, r"training\.monitor: 'ndcg' is not measured"),
        (
            {"evaluation": {"ks": [5]}},
            r"training\.monitor: 'ndcg@10' is not measured; .* such as ndcg@5",
        ),
        (
            {"training": {"start": {}}},
            r"training\.start solves sums of .* only; it needs features\.history: a number, "
            r"the maximum items per user, model\.history_pooling: sum, model\.normalize: false",
        ),
        (
            {"model": {"self_supervised": {}}},
            r"model\.self_supervised splits the item features .* add on",
        ),
        (
            {"model": {"history_pooling": "self_attention"}, "features": {"history": 201}},
            r"self_attention compares all items .* set features\.history to 200 or less",
        ),
        ({"model": {"tie_history": True}}, r"tie_history needs a history; set features\.history"),
        (
            {"training": {"order": "by_user"}},
            r"by_user cannot be used with model\.objective\.negatives in_batch: .* to uniform",
        ),
        ({"serving": {"host": ""}}, r"serving\.host: ensure this value has at least 1 char"),
        (
            {"serving": {"http_port": 9, "grpc_port": 9}},
            r"serving: http_port and grpc_port are both",
        ),
        ({"model": {"hidden": [0]}}, r"model\.hidden\.0: ensure this value is greater than 0"),
        ({"model": {"hidden": [64] * 101}}, r"model\.hidden: ensure this value has at most 100 it"),
        ({"model": {"dropout": 1.0}}, r"model\.dropout: ensure this value is less than 1"),
        ({"features": {"history": 0}}, r"features\.history: ensure this value is greater than 0"),
        ({"features": {"history": 4097}}, r"features\.history: ensure .* or equal to 4096"),
        ({"training": {"seed": -1}}, r"training\.seed: ensure this value is greater than or equal"),
        ({"training": {"seed": 2**31}}, r"training\.seed: .*less than or equal to 2147483647"),
        ({"split": {"seed": -1}}, r"split\.seed: ensure this value is greater than or equal to 0"),
    ],
)
def test_an_invalid_value_is_an_error_that_names_it(changes, message):
    with pytest.raises(ConfigError, match=message):
        parse_config({**SYNTHETIC, **changes}, "here")


def numbers(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple, Any]]:
    """Yield the path of each field with numbers, and a function from a number to a value of it."""
    for field in model.__fields__.values():
        where = (*path, field.name)
        kinds = field.sub_fields or [field]
        for kind in (k for k in kinds if isinstance(k.type_, type)):
            if issubclass(kind.type_, BaseModel):
                yield from numbers(kind.type_, where)
            elif issubclass(kind.type_, int | float) and not issubclass(kind.type_, bool):
                if isinstance(field.default, dict):
                    yield where, lambda number: {"column": number}
                elif isinstance(field.default, list):
                    yield where, lambda number: [number]
                elif isinstance(field.default, tuple):
                    size = len(field.default)
                    yield where, lambda number, size=size: [number] * size
                else:
                    yield where, lambda number: number
                break


NUMBERS = {".".join(path): make for path, make in numbers(Config)}


def test_the_numbers_of_all_sections_are_found():
    assert len(NUMBERS) > 60
    assert {"model.hidden", "training.start.l2", "features.history", "serving.threads"} < {*NUMBERS}
    assert {"split.ratios", "model.objective.mined_ranks", "features.item_text"} < {*NUMBERS}


@pytest.mark.parametrize("key", NUMBERS)
def test_no_setting_accepts_nan_infinite_or_huge_numbers(key):
    """Huge means more than any tensor, index or process can have."""
    for number in (math.nan, math.inf, -math.inf, 1e30, -1e30, 10**30):
        if key.endswith(".at_least") and math.isfinite(number):
            continue  # any finite threshold is allowed: no row is positive, or all are
        tree = set_keys(SYNTHETIC, {key: NUMBERS[key](number)}, "here")
        with pytest.raises(ConfigError, match=rf"\n  {key.replace('.', '[.]')}(\.\w+)*: "):
            parse_config(tree, "here")


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("model.hidden=[64, 32]", {"model.hidden": [64, 32]}),
        (
            "training.epochs=3  model.hidden=[64, 32]\tmodel.dim=8",
            {"training.epochs": 3, "model.hidden": [64, 32], "model.dim": 8},
        ),
        ("name=other training.epochs=3", {"name": "other", "training.epochs": 3}),
        ("show=[title, genres] model.dim=8", {"show": ["title", "genres"], "model.dim": 8}),
        ("ingest.path=/data/my films", {"ingest.path": "/data/my films"}),
        ("ingest.path='/data/a b.c=d'", {"ingest.path": "/data/a b.c=d"}),
        ("ingest.path=/data/x=y z", {"ingest.path": "/data/x=y z"}),
        (
            "training.start={l2: 3, most_items: 9} model.dim=8",
            {"training.start": {"l2": 3, "most_items": 9}, "model.dim": 8},
        ),
        (" model.dim = 8 ", {"model.dim": 8}),
    ],
)
def test_one_string_may_set_several_keys(text, pairs):
    assert read_overrides((text,)) == pairs


def test_a_shipped_configuration_is_found_by_name(tmp_path, monkeypatch):
    assert find_config("ml-1m") == CONFIGS / "ml-1m.yaml"
    assert find_config(Path("smoke"), CONFIGS / "tune") == CONFIGS / "tune" / "smoke.yaml"
    assert load_config("ml-1m") == load_config(CONFIGS / "ml-1m.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "synthetic").mkdir()  # a folder is not a configuration
    assert find_config("synthetic") == CONFIGS / "synthetic.yaml"
    (tmp_path / "ml-1m").write_text("name: mine")
    assert find_config("ml-1m") == Path("ml-1m"), "a file comes first"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ml-11m", r"^ml-11m: no such configuration; .* in configs/: ml-1m, ml-10m, .*, syn"),
        ("ml-1m.yml", r"^ml-1m\.yml: no such configuration; .* in configs/: ml-1m, "),
        ("configs/ml-1", r"^configs/ml-1: no such configuration; .* in configs/: ml-1m, "),
        (f"{CONFIGS}/ml-1m", r"/ml-1m: no such configuration; .* in configs/: ml-1m, "),
    ],
)
def test_a_wrong_name_lists_the_shipped_ones_the_most_similar_first(tmp_path, name, message):
    with pytest.raises(ConfigError, match=message):
        find_config(name)


def test_help_imports_nothing_heavy():
    code = (
        "import sys, twotower.pipelines.cli as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'tensorflow', 'nvtabular', 'merlin', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout
