"""What a person writes on the command line: features and filters, and what is wrong with them."""

from __future__ import annotations

import re

import pytest

from twotower.pipelines.answers import request
from twotower.pipelines.answers.request import FiltersForAll, parse_features, parse_filters
from twotower.pipelines.config import CONFIGS, load_config
from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.run import Run
from twotower.workflows.errors import DataError

FEATURES = {
    "zip": "BYTES",
    "month": "INT64",
    "size": "FP64",
    "genres": "BYTES",
    "history": "UINT64",
}


@pytest.fixture
def empty_run(tmp_path, monkeypatch):
    """A run whose published version, of which only the contract is asked, has these features."""
    contract = {"features": FEATURES, "lists": ["genres", "history"], "max_k": 10}
    monkeypatch.setattr(request, "published_contract", lambda run: contract)
    return Run.create(load_config(CONFIGS / "synthetic.yaml"), tmp_path / "run")


def test_features_of_the_command_line_have_the_types_of_the_version(empty_run):
    texts = [
        "zip=0123",
        "month= 7",
        "size=1e3",
        "genres=Drama,War = Peace",
        f"history=1,{2**64 - 2}",
    ]
    found = parse_features(empty_run, texts)
    assert found == {
        "zip": "0123",
        "month": 7,
        "size": 1000.0,
        "genres": ["Drama", "War = Peace"],
        "history": [1, 2**64 - 2],
    }
    assert [type(found[name]) for name in ("month", "size")] == [int, float]
    assert parse_features(empty_run, ["zip=", "size=", "genres="]) == {
        "zip": None,
        "size": None,
        "genres": [],
    }
    assert parse_features(empty_run, []) == {}


@pytest.mark.parametrize(
    "texts, message",
    [
        (["month"], "--feature month: write NAME=VALUE"),
        (["wind=1"], "the model has no feature 'wind'; it has zip, month, size, genres, history"),
        (["month=May"], f"--feature month=May: 'May' is no integer from {-(2**63)} to {2**63 - 1}"),
        (["size=big"], "--feature size=big: 'big' is no number"),
        (["history=1,-2"], "'-2' is no integer from 0 to"),
        (["zip=1", "zip=2"], "zip is given twice; separate the values of a list by commas"),
    ],
)
def test_a_wrong_feature_of_the_command_line_is_named(empty_run, texts, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_features(empty_run, texts)


def test_features_need_a_published_version(tmp_path):
    run = Run.create(load_config(CONFIGS / "synthetic.yaml"), tmp_path / "run")
    with pytest.raises(RunError, match="no version is published"):
        parse_features(run, ["month=1"])


def test_filters_of_the_command_line_have_the_kinds_of_the_run(small_run):
    where = '{"year": {"$gte": 1990}}'
    found = parse_filters(small_run, where, ["1", "2"], ["3"], ["genres=2", "year=1"], 0.3, "year")
    assert found == FiltersForAll(where, [1, 2], [3], {"genres": 2, "year": 1}, 0.3, "year")
    assert found.of(2)[:3] == (where, [[1, 2], [1, 2]], [[3], [3]])
    assert found.of(2).parameters == {
        "where": where,
        "max_per": '{"genres": 2, "year": 1}',
        "diversity": 0.3,
        "diversity_by": "year",
    }
    assert parse_filters(small_run).of(2) == (None,) * 6


@pytest.mark.parametrize(
    "rules, error, message",
    [
        ({"where": '{"yaer": 1}'}, ConfigError, "column 'yaer' is unknown; this"),
        ({"where": "year>1990"}, ConfigError, "--where year>1990: it is not JSON"),
        ({"allow": ["one"]}, DataError, "'one' is no id of this run"),
        ({"exclude": ["1", "x"]}, DataError, "'x' is no id of this run"),
        (
            {"diversity_by": "genre"},
            ConfigError,
            "--diversity-by genre: no such column; this",
        ),
        ({"max_per": ["genres"]}, ConfigError, "--max-per genres: write COLUMN=NUMBER"),
        ({"max_per": ["genres=two"]}, ConfigError, "--max-per genres=two: write COLUMN=NUMBER"),
        (
            {"max_per": ["genre=2"]},
            ConfigError,
            "--max-per {\"genre\": 2}: column 'genre' is unknown; this model has genres, year",
        ),
        ({"max_per": ["genres=0"]}, ConfigError, "column 'genres': 0; expected an integer of 1"),
    ],
)
def test_a_wrong_filter_of_the_command_line_is_named(rules, error, message, small_run):
    with pytest.raises(error, match=re.escape(message)):
        parse_filters(small_run, **rules)
