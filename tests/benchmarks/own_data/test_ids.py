"""The comparison of text ids with integer ids: its ratios and limits, by hand."""

from __future__ import annotations

from benchmarks.own_data.ids import CELLS, INTEGERS, TEXTS, largest_difference, summary
from benchmarks.serving.load import LoadResult


def result(p50_ms: float, requests: int) -> LoadResult:
    return LoadResult(p50_ms=p50_ms, p99_ms=9.0, requests=requests, seconds=2.0, errors=0)


def test_the_largest_difference_is_over_all_models_and_metrics():
    one = {"two-tower": {"ndcg@10": 0.25, "recall@10": 0.5}, "popularity": {"ndcg@10": 0.125}}
    other = {"two-tower": {"ndcg@10": 0.25, "recall@10": 0.625}, "popularity": {"ndcg@10": 0.25}}
    assert largest_difference(one, one) == 0
    assert largest_difference(one, other) == 0.125


def test_medians_are_compared_text_over_integer():
    found = {}
    for cell in CELLS:
        found[INTEGERS, cell] = [result(1.0, 1000), result(2.0, 800), result(9.0, 100)]
        found[TEXTS, cell] = [result(2.2, 640), result(8.0, 900), result(1.1, 100)]
    rows, checks = summary(found, 0.0)
    assert rows["ids"]["rounds"] == 3 and len(rows["ids"]["cells"]) == len(CELLS)
    cell = rows["ids"]["cells"][0]
    assert (cell["p50 ms, integer ids"], cell["p50 ms, text ids"]) == (2.0, 2.2)
    assert (cell["requests/s, integer ids"], cell["requests/s, text ids"]) == (400.0, 320.0)
    values = {check.name: (check.value, check.holds) for check in checks}
    assert values["ids: http json, batch 1, 1 clients: p50, text over integer"] == (1.1, True)
    slow = values["ids: grpc, batch 1, 16 clients: throughput, integer over text"]
    assert slow == (1.25, False)
    assert values["ids: errors"] == (0, True)
    assert len(checks) == 6, "large requests have no limit"
