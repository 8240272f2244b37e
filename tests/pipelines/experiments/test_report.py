"""The report on given results: table, page, copies and console."""

from __future__ import annotations

import json
import re

from twotower.pipelines.experiments.comparison import Comparison, Outcome
from twotower.pipelines.experiments.plots import plot_all
from twotower.pipelines.experiments.report import markdown, page, show, write_report
from twotower.pipelines.experiments.rows import rows


def test_the_table_as_markdown(comparison):
    lines = markdown(comparison, ["quality.png"]).splitlines()
    table = [line for line in lines if line.startswith("| ")]
    assert table[0].startswith("| model | family | valid ndcg@10 | test ndcg@10 | test recall@10 |")
    assert table[1].startswith("| high | towers | .3200 ± .0283 | .2300 ± .0424 | .5000 ± .0000 |")
    assert table[1].endswith("| 2 | 20.0 |") and table[2].endswith("|  | 0.5 |")
    assert table[4].startswith("| broken |  | failed |")
    assert len({line.count("|") for line in table}) == 1
    assert "- broken, seed 1 failed: too <large>" in lines
    assert "![quality](quality.png)" in lines
    assert "SYNTHETIC DATA" in lines[4]


def test_a_failed_seed_is_shown_beside_the_mean_of_the_others(comparison):
    comparison.outcomes[4] = Outcome("low", 2, reason="no luck")
    low = rows(comparison)[2]
    assert str(low.values["valid ndcg@10"]) == ".1000"
    assert "| low (1 failed) | losses | .1000 |" in markdown(comparison)


def test_the_page_contains_everything_and_loads_nothing(comparison, tmp_path):
    path = write_report(comparison, tmp_path)
    text = path.read_text()
    assert not re.search(r"https?:|//|url\(|<script|<link|src=\"(?!data:)", _without_data(text))
    assert text.count('src="data:image/png;base64,iVBOR') == 4
    assert "Which &lt;b&gt; is best?" in text and "too &lt;large&gt;" in text
    assert ".3200 ± .0283" in text and "SYNTHETIC DATA" in text and "commit abc" in text
    assert json.loads((tmp_path / "rows.json").read_text())[0]["name"] == "high"


def test_the_page_does_not_contain_folders_of_files(comparison):
    comparison.plan.set["split.path"] = "/home/me/split.parquet"
    text = page(comparison, [])
    assert "split.path: split.parquet" in text and "/home/me" not in text


def _without_data(text: str) -> str:
    return re.sub(r"base64,[A-Za-z0-9+/=]+", "base64,", text)


def test_the_copy_for_docs_has_the_table_and_the_plots_but_no_page(comparison, tmp_path):
    assert write_report(comparison, tmp_path, tmp_path / "docs") == tmp_path / "report.html"
    copies = tmp_path / "docs" / "made-up"
    names = {each.name for each in copies.iterdir()}
    assert names == {"table.md", "quality.png", "thirds.png", "diversity.png", "curves.png"}
    for picture in re.findall(r"\]\((.*?)\)", (copies / "table.md").read_text()):
        assert (copies / picture).is_file()


def test_without_any_result_there_is_a_page_and_no_plot(comparison, tmp_path):
    failed = [Outcome(each.row, each.seed, reason="no luck") for each in comparison.outcomes]
    none = Comparison(comparison.plan, "ndcg@10", "two users", False, failed)
    assert plot_all(rows(none), "ndcg@10", "nothing", tmp_path) == []
    assert "SYNTHETIC" not in page(none, [])


def test_the_console_shows_the_order_and_the_reasons_of_failures(comparison, capsys):
    show(comparison)
    printed = capsys.readouterr().out
    places = [re.search(rf"^ {name} ", printed, re.M).start() for name in ("high", "ease", "low")]
    assert places == sorted(places)
    assert "broken, seed 1 failed: too <large>" in printed
