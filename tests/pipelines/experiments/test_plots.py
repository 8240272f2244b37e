"""The plots of a comparison: which rows are in which panel."""

from __future__ import annotations

from matplotlib.figure import Figure

from twotower.pipelines.experiments.plots import _panels
from twotower.pipelines.experiments.rows import Row


def test_each_family_has_a_panel_and_reference_and_baselines_are_in_every_panel():
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
