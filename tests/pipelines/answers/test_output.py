"""Files of rows: each format gives back what was written, in one part or several."""

from __future__ import annotations

import json

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pytest

from twotower.pipelines.answers.output import FORMATS, format_of

TEXTS = ["a", "", 'quote " and, comma', "line\nbreak", "Zürich 東京", "back\\slash", "007"]
TABLE = pa.table(
    {
        "user_id": pa.array(TEXTS),
        "rank": pa.array(range(len(TEXTS)), pa.int32()),
        "item_id": pa.array([0, 1, 2**53 + 1, 2**64 - 1, 5, 6, 7], pa.uint64()),
        "score": pa.array([0.1, -1e-7, 1e30, 0.0, -2.5, 1 / 3, 3.0], pa.float32()),
    }
)


def read(path) -> pa.Table:
    if path.suffix == ".parquet":
        return pa.Table.from_pandas(pd.read_parquet(path), TABLE.schema, preserve_index=False)
    if path.suffix == ".csv":
        parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
        convert = pyarrow.csv.ConvertOptions(
            column_types=TABLE.schema, strings_can_be_null=False, null_values=[]
        )
        return pyarrow.csv.read_csv(path, parse_options=parse, convert_options=convert)
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    rows = [json.loads(line) for line in lines]
    return pa.Table.from_pylist(rows, schema=TABLE.schema)


@pytest.mark.parametrize("suffix", list(FORMATS))
def test_rows_come_back_from_one_part_or_several(tmp_path, suffix):
    parts = [tmp_path / f"part-{number}" for number in range(3)]
    for number, part in enumerate(parts):
        with FORMATS[suffix].open(part, TABLE.schema, number == 0) as writer:
            for row in range(number * 3, min(number * 3 + 3, len(TABLE))):
                writer.write(TABLE.slice(row, 1))
    whole = tmp_path / f"whole{suffix}"
    format_of(whole).join(parts, whole)
    assert read(whole).equals(TABLE)
