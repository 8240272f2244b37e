"""Vocabularies counted per side equal those that NVTabular counts in the joined rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.workflows.encoding.conftest import EVERY_KIND, fit_joined
from twotower.workflows.features.graph import fit_features


def vocabularies(workflow) -> dict[str, Path]:
    from merlin.dag import iter_nodes
    from nvtabular import ops

    found: dict[str, Path] = {}
    for node in iter_nodes([workflow.output_node], flatten_subgraphs=True):
        if isinstance(node.op, ops.Categorify):
            found |= {name: Path(path) for name, path in node.op.categories.items()}
    return found


def assert_same_files(ours, theirs) -> None:
    ours, theirs = vocabularies(ours), vocabularies(theirs)
    assert ours.keys() == theirs.keys()
    for name, path in ours.items():
        pd.testing.assert_frame_equal(pd.read_parquet(path), pd.read_parquet(theirs[name]))


def schema_of(workflow) -> list[list[str]]:
    """The lines of each column in the schema, without the folder of the vocabularies.

    They are sorted, because tags are a set.
    """
    from merlin.schema.io.tensorflow_metadata import TensorflowMetadata

    text = TensorflowMetadata.from_merlin_schema(workflow.output_schema).to_proto_text()
    columns = text.split("feature {")
    return [sorted(line for line in c.splitlines() if "unique." not in line) for c in columns]


@pytest.mark.parametrize("part_rows", [1 << 14, 37])
def test_vocabularies_and_schema_are_those_of_the_joined_rows(
    every_kind, tmp_path, monkeypatch, part_rows
):
    """Many values are equally frequent, so the order of ties is compared, too."""
    monkeypatch.setattr("twotower.workflows.encoding.table.PART_ROWS", part_rows)
    tables = (every_kind[name] for name in ("train", "users", "items"))
    ours = fit_features(*tables, EVERY_KIND, tmp_path)
    assert_same_files(ours, every_kind["workflow"])
    assert schema_of(ours) == schema_of(every_kind["workflow"])
    sizes = pd.read_parquet(vocabularies(ours)["user_id"])["user_id_size"]
    assert sizes.duplicated().sum() > len(sizes) / 2


def test_a_minimum_frequency_counts_pairs_not_rows(every_kind, tmp_path):
    config = EVERY_KIND.copy(update={"min_frequency": 40})
    tables = [every_kind[name] for name in ("train", "users", "items")]
    theirs, _ = fit_joined(*tables, config, tmp_path / "joined")
    ours = fit_features(*tables, config, tmp_path / "ours")
    assert_same_files(ours, theirs)
    assert 0 < len(pd.read_parquet(vocabularies(ours)["age"])) < 79


def test_moments_are_those_of_the_joined_rows(every_kind, tmp_path):
    from twotower.serving.vocabularies import moments

    tables = (every_kind[name] for name in ("train", "users", "items"))
    ours = fit_features(*tables, EVERY_KIND, tmp_path)
    found = moments(ours.get_subworkflow("user")) | moments(ours.get_subworkflow("item"))
    assert found.keys() == {"height", "pause", "price"}
    for name, (mean, deviation) in found.items():
        values = every_kind["wide"][name].dropna()
        np.testing.assert_allclose([mean, deviation], [values.mean(), values.std()], rtol=1e-12)
