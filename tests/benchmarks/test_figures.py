"""Tables of the documentation: generated ones replace old ones, and the pages are up to date."""

from __future__ import annotations

import pytest

from benchmarks.child import ROOT
from benchmarks.figures import TABLES, FiguresError, fill, pages, read, table

PAGE = """# Title

Text before.

<!-- figures: speed -->
an old table
<!-- /figures -->

Text between.

<!-- figures: checks -->
<!-- /figures -->
"""


def test_a_page_gets_its_tables_and_keeps_its_text():
    filled = fill(PAGE, page="page.md")
    assert "an old table" not in filled
    assert filled.startswith("# Title\n\nText before.\n\n<!-- figures: speed -->\n| p50")
    assert "|\n<!-- /figures -->\n\nText between.\n\n<!-- figures: checks -->\n|" in filled
    assert filled.endswith("|\n<!-- /figures -->\n")
    assert fill(filled, page="page.md") == filled


@pytest.mark.parametrize("name", TABLES)
def test_every_table_can_be_generated(name):
    lines = TABLES[name]().splitlines()
    assert len(lines) > 3
    assert all(line == "" or (line.startswith("|") and line.endswith("|")) for line in lines)


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    with pytest.raises(FiguresError, match=r"docs\.md: no figures 'sped'; there are .*speed"):
        fill("<!-- figures: sped -->\n<!-- /figures -->\n", page="docs.md")


@pytest.mark.parametrize(
    "text",
    [
        "<!-- figures: speed -->\n",
        "<!-- figures: speed -->\n<!-- figures: checks -->\n<!-- /figures -->\n",
    ],
)
def test_a_marker_without_an_end_is_an_error(text):
    with pytest.raises(FiguresError, match="/figures"):
        fill(text, page="page.md")


def test_a_table_of_checks_has_every_check_and_marks_those_that_do_not_hold():
    checks = read("serving")["checks"]
    _, _, *lines = TABLES["checks"]().splitlines()
    assert len(lines) == len(checks)
    for line, check in zip(lines, checks, strict=True):
        assert line.startswith(f"| {check['name']} | {check['value']:g} | {check['limit']}")
        assert ("does not hold" in line) == (not check["holds"])


def test_known_figures_are_in_their_tables():
    """One figure per table, as the result files have it."""
    (cell,) = (
        each
        for each in read("training")["rows"]["speed"]["cells"]
        if (each["subject"], each["batch_size"]) == ("ours", 4_096)
    )
    assert f"| 4,096 | {cell['rows_per_s']:,}; {cell['peak_gb']:.1f} GB |" in TABLES["training"]()
    (cell,) = (
        each
        for each in read("serving")["rows"]["speed"]["cells"]
        if (each["subject"], each["wire"], each["batch"], each["clients"])
        == ("ours", "grpc", 256, 1)
    )
    expected = f"{cell['p50_ms']:.2f} / {cell['p99_ms']:.1f}, {cell['requests_per_s']:,.0f}"
    assert f"| grpc, 256 users, 1 client | {expected} |" in TABLES["speed"]()
    ease = read("main_job")["rows"]["frozen split"]["metrics"]["ease"]
    expected = f"| EASE, same split | {ease['recall@10']:.4f} |".replace("0.", ".")
    assert expected in TABLES["headline"]()


def test_empty_cells_are_kept():
    assert table(["a", "b"], [["1", ""], ["", "2"]]) == "| a | b |\n|---|---|\n| 1 | |\n| | 2 |"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_figures_of_a_page_are_those_of_the_result_files(page):
    text = page.read_text()
    assert fill(text, page=page.name) == text, "run: make figures"
