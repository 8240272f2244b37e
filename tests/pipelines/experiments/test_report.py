"""The report on given results: means, standard deviations, order, content of the page."""

from __future__ import annotations

import json
import re

import pytest

from twotower.pipelines.experiments.compare import CompareConfig, Comparison, Outcome
from twotower.pipelines.experiments.report import markdown, page, rows, show, write_report
from twotower.pipelines.experiments.report_plots import plot_all

PLAN = {
    "name": "made-up",
    "about": "Which <b> is best?",
    "base": "synthetic",
    "seeds": [1, 2],
    "variants": {
        "low": {"about": "a | b", "family": "losses"},
        "high": {"family": "towers", "set": {"model.hidden": [64]}},
        "broken": {},
    },
}


def result(valid: float, test: float, seconds: float, **more) -> dict:
    names = ("recall", "coverage", "popularity", "head_recall", "middle_recall", "tail_recall")
    shared = {f"{name}@10": 0.5 for name in names}
    return {
        "seconds": seconds,
        "valid": {**shared, "ndcg@10": valid},
        "test": {**shared, "ndcg@10": test},
        **more,
    }


def trained(valid: float, test: float, seconds: float, best_epoch: int) -> dict:
    curve = {"seconds": [seconds / 2, seconds], "ndcg@10": [valid / 2, valid]}
    return result(valid, test, seconds, epochs=2, best_epoch=best_epoch, curve=curve)


@pytest.fixture
def comparison() -> Comparison:
    """Valid and test disagree on which is better."""
    outcomes = [
        Outcome("ease", None, result(0.25, 0.9, 0.5)),
        Outcome("low", 1, trained(0.1, 0.8, 10, 2), "abc"),
        Outcome("high", 1, trained(0.30, 0.20, 20, 1), "abc"),
        Outcome("broken", 1, reason="too <large>"),
        Outcome("low", 2, trained(0.2, 0.8, 30, 5), "abc"),
        Outcome("high", 2, trained(0.34, 0.26, 20, 2), "abc"),
        Outcome("broken", 2, reason="too large"),
    ]
    plan = CompareConfig.parse_obj(PLAN)
    return Comparison(plan, "ndcg@10", "two users; any split", True, outcomes)


def test_rows_are_in_the_order_of_valid_and_what_failed_is_last(comparison):
    found = rows(comparison)
    assert [row.name for row in found] == ["high", "ease", "low", "broken"]
    assert [row.family for row in found] == ["towers", "baseline", "losses", ""]


def test_means_and_spreads_by_hand(comparison):
    high, ease, low, broken = rows(comparison)
    # .30 and .34: mean .32, deviations -.02 and .02, variance (.0004 + .0004) / (2 - 1).
    assert high.values["valid ndcg@10"].mean == pytest.approx(0.32)
    assert high.values["valid ndcg@10"].spread == pytest.approx(0.0008**0.5)
    assert str(high.values["valid ndcg@10"]) == ".3200 ± .0283"
    assert str(high.values["test ndcg@10"]) == ".2300 ± .0424"
    assert str(low.values["test ndcg@10"]) == ".8000 ± .0000"
    assert (low.seconds.mean, low.epochs.mean) == (20, 3.5)
    assert str(ease.values["valid ndcg@10"]) == ".2500" and ease.epochs is None
    assert broken.values == {} and broken.failed == 2


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


def test_one_failed_seed_is_said_beside_the_means_of_the_others(comparison):
    comparison.outcomes[4] = Outcome("low", 2, reason="no luck")
    low = rows(comparison)[2]
    assert str(low.values["valid ndcg@10"]) == ".1000"
    assert "| low (1 failed) | losses | .1000 |" in markdown(comparison)


def test_the_page_holds_everything_and_asks_for_nothing(comparison, tmp_path):
    path = write_report(comparison, tmp_path)
    text = path.read_text()
    assert not re.search(r"https?:|//|url\(|<script|<link|src=\"(?!data:)", _without_data(text))
    assert text.count('src="data:image/png;base64,iVBOR') == 4
    assert "Which &lt;b&gt; is best?" in text and "too &lt;large&gt;" in text
    assert ".3200 ± .0283" in text and "SYNTHETIC DATA" in text and "commit abc" in text
    assert json.loads((tmp_path / "rows.json").read_text())[0]["name"] == "high"


def test_the_page_does_not_say_where_files_lie(comparison):
    comparison.plan.set["split.path"] = "/home/me/split.parquet"
    text = page(comparison, [])
    assert "split.path: split.parquet" in text and "/home/me" not in text


def test_each_family_has_a_panel_and_the_reference_and_baselines_are_in_all():
    from matplotlib.figure import Figure

    from twotower.pipelines.experiments.report import Row
    from twotower.pipelines.experiments.report_plots import _panels

    curve = [{"seconds": [1], "ndcg@10": [0.1]}]
    found = [
        *(Row(name, "a", "", {}, curves=curve) for name in ("one", "two")),
        Row("plain", "reference", "", {}, curves=curve),
        Row("ease", "baseline", "", {}),
        *(Row(f"of {family}", family, "", {}, curves=curve) for family in "bc"),
    ]
    figure = Figure()
    panels = {}
    for axes, row, look in _panels(figure, found):
        panels.setdefault(axes.get_title(loc="left"), []).append((row.name, *look.values()))
        axes.plot([0], [0], label=row.name)
    names = {family: [name for name, *_ in rows] for family, rows in panels.items()}
    assert names == {
        "a": ["plain", "ease", "one", "two"],
        "b": ["plain", "ease", "of b"],
        "c": ["plain", "ease", "of c"],
    }
    assert all(len({tuple(look) for _, *look in rows}) == len(rows) for rows in panels.values())
    assert len(figure.axes) == 3, "the fourth place of two lines of two is empty"


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


def test_the_console_has_the_order_and_the_reasons(comparison, capsys):
    show(comparison)
    printed = capsys.readouterr().out
    places = [re.search(rf"^ {name} ", printed, re.M).start() for name in ("high", "ease", "low")]
    assert places == sorted(places)
    assert "broken, seed 1 failed: too <large>" in printed
