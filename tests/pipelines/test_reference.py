"""The reference of settings: complete, and equal to the committed page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pipelines.test_config import NUMBERS
from twotower.pipelines.reference import main, page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


def row(key: str) -> list[str]:
    """Return the cells of the row of a setting."""
    (line,) = (line for line in page().splitlines() if line.startswith(f"| `{key}` |"))
    return [cell.strip() for cell in line.removeprefix("| ").removesuffix(" |").split(" | ")]


def test_the_committed_page_is_that_of_the_code():
    assert PAGE.read_text() == page(), "run `make docs-reference`"


def test_every_setting_with_a_number_is_listed():
    assert all(row(key) for key in NUMBERS)


@pytest.mark.parametrize(
    ("key", "cells"),
    [
        ("show", ["list of strings", "`[]`", ""]),
        ("training.epochs", ["integer", "`20`", "> 0, ≤ 1,000,000"]),
        ("model.dropout", ["number", "`0.0`", "≥ 0, < 1"]),
        ("model.hidden", ["list of integers", "`[]`", "> 0, ≤ 65,536"]),
        ("model.normalize", ["boolean", "`true`", ""]),
        ("features.history", ["integer or null", "`null`", "> 0, ≤ 4,096"]),
        ("ingest.files.columns", ["mapping of string to string", "`{}`", ""]),
        ("split.ratios", ["list of 3 numbers", "`[0.8, 0.1, 0.1]`", ""]),
        (
            "split.method",
            [
                "choice",
                "`random`",
                "`random`, `leave_last_out`, `temporal`, `file`, `column`, `cold_items`",
            ],
        ),
        ("space.<name>.low", ["number or null", "`null`", ""]),
    ],
)
def test_a_row_has_type_default_and_range(key, cells):
    assert row(key)[1:-1] == cells


def test_every_setting_has_a_description():
    rows = re.findall(r"^\| `([^`]+)` \|.*\| (.*) \|$", page(), re.MULTILINE)
    assert len(rows) > 100
    assert not [key for key, description in rows if not description]


def test_make_writes_the_page(tmp_path):
    main(tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == page()
