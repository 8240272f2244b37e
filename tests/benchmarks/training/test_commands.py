"""Comparison of the metrics of two trainings."""

from __future__ import annotations

from benchmarks.training.commands import differing_names


def test_values_that_differ_or_are_missing_are_named():
    assert differing_names({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.5, "c": 0.0}) == ["b", "c"]
