"""Medians, ratios and checks from known measurements."""

from __future__ import annotations

import pytest

from benchmarks.serving.cells import Cell, SpeedResults, cells, checks, ratios
from benchmarks.serving.load import LoadResult
from benchmarks.serving.subjects import (
    IDENTITY,
    MERLIN,
    OURS,
    OURS_WITH_FEATURES,
    STOCK,
)


def result(p50: float, errors: int = 0) -> LoadResult:
    return LoadResult(p50_ms=p50, p99_ms=4 * p50, requests=2_000, seconds=2 * p50, errors=errors)


@pytest.fixture
def results() -> SpeedResults:
    """Three rounds, the last an outlier: ours 1 ms, 5 ms for 256 users; identity 0.8, stock 5."""
    times = {OURS: 1.0, OURS_WITH_FEATURES: 2.0, IDENTITY: 0.8, MERLIN: 20.0, STOCK: 5.0}
    found = SpeedResults()
    for cell, subjects in cells():
        for subject in subjects:
            p50 = times[subject] * (5 if cell.batch == 256 else 1)
            for factor in (1.0, 1.0, 9.0):
                found.add(subject, cell, result(p50 * factor))
    return found


def test_every_ratio_has_its_cells(results):
    found = ratios(results)
    assert found["http: p50 at batch 1, one client, times identity"] == 1.25
    assert found["grpc: stock ensemble's p50 over ours"] == 5.0
    assert found["http: stock ensemble's p50 over ours, features given"] == 2.5
    assert found["http: p50 of 256 users in one request, times ours at batch 1"] == 5.0
    assert found["http: 16 clients, throughput over identity's"] == 0.8
    assert found["http: 16 clients, p99 over p50"] == 4.0


def test_checks_hold_and_an_error_fails_one(results):
    assert all(check.holds for check in checks(results, ratios(results)))
    results.add(OURS, Cell("grpc", 1, 16), result(1.0, errors=1))
    assert [c.name for c in checks(results, ratios(results)) if not c.holds] == ["speed: errors"]


@pytest.mark.parametrize(
    "wire, batch, clients, slower, name",
    [
        ("http json", 1, 1, 1.5, "http: p50 at batch 1, one client, times identity"),
        ("grpc", 1, 1, 1.1, "grpc: p50 at batch 1, one client, times identity"),
        (
            "http binary",
            256,
            1,
            1.1,
            "http: p50 of 256 users in one request, times ours at batch 1",
        ),
        ("grpc", 256, 1, 1.1, "grpc: p50 of 256 users in one request, times ours at batch 1"),
        ("http json", 1, 16, 1.4, "http: 16 clients, throughput over identity's"),
        ("grpc", 1, 16, 1.2, "grpc: 16 clients, throughput over identity's"),
    ],
)
def test_a_check_fails_if_a_subject_is_too_slow(wire, batch, clients, slower, name, results):
    cell = Cell(wire, batch, clients)
    rounds = results.rounds[OURS, cell]
    rounds[:] = [result(slower * each.p50_ms) for each in rounds]
    assert [c.name for c in checks(results, ratios(results)) if not c.holds] == [name]


def test_the_stock_ensemble_is_measured_with_single_users_only():
    assert {cell.batch for cell, subjects in cells() if STOCK in subjects} == {1}
