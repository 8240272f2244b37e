"""Tables in parts: the same rows from memory and from a file."""

from __future__ import annotations

import pyarrow as pa
import pytest

from twotower.workflows.encoding import table as tables
from twotower.workflows.encoding.table import in_parts, in_tasks, part_rows, read_part


def elsewhere(function, arguments):
    """A `run` that is not `map`, so that parts are put in a file."""
    return map(function, arguments)


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 20])
def test_parts_in_a_file_have_the_rows_of_those_in_memory(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "PART_ROWS", 4)
    whole = pa.table(
        {
            "number": pa.array([None if row == 3 else row for row in range(rows + 2)], pa.int64()),
            "text": pa.array([f"é{row}" for row in range(rows + 2)], pa.string()),
            "list": pa.array(
                [list(range(row % 3)) for row in range(rows + 2)], pa.list_(pa.int64())
            ),
        }
    )
    table = pa.concat_tables([whole.slice(1, 1), whole.slice(2)])  # in two pieces, with offsets
    table = table.slice(0, rows)
    inside = in_parts(table, tmp_path / "rows.arrow", map)
    assert not list(tmp_path.iterdir())
    stored = in_parts(table, tmp_path / "rows.arrow", elsewhere)
    assert len(inside) == len(stored) == max(1, -(-rows // 4))
    assert [part_rows(part) for part in stored] == [part_rows(part) for part in inside]
    for one, other in zip(inside, stored, strict=True):
        assert read_part(other).equals(read_part(one))
    assert pa.concat_tables(map(read_part, stored)).equals(table)


def test_tasks_have_consecutive_parts():
    parts = [pa.table({"a": [number]}) for number in range(9)]
    tasks = in_tasks(parts, 4)
    assert [len(task) for task in tasks] == [4, 4, 1]
    assert [part["a"][0].as_py() for task in tasks for part in task] == list(range(9))
