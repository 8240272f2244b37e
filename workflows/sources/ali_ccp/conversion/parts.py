"""Finished parts of a conversion, which an interrupted one finds again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FORMAT = 1
"""Raised whenever the content of the parts changes."""
_STATE, _NOTES = "state.json", b"notes"
_RANDOM = ("item_id", "user_item_")  # columns of which a dictionary would be as large


class Parts:
    """The parquet files of a conversion, each with notes.

    Parameters
    ----------
    folder : Path
        What is in it from other inputs or settings is deleted.
    inputs : iterable of Path
        The files that are converted. If the size or the time of one changes, all starts afresh.
    settings : mapping
        What else the parts depend on.
    """

    def __init__(self, folder: Path, inputs: Iterable[Path], settings: Mapping[str, Any]):
        self.folder = folder
        files = {
            str(path.resolve()): [path.stat().st_size, path.stat().st_mtime_ns] for path in inputs
        }
        state = json.dumps({"format": FORMAT, "files": files, **settings}, sort_keys=True)
        place = folder / _STATE
        if not place.exists() or place.read_text(encoding="utf-8") != state:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            with replacing(place) as path:
                path.write_text(state, encoding="utf-8")

    def path(self, name: str) -> Path:
        """The place of a part."""
        return self.folder / f"{name}.parquet"

    def notes(self, name: str) -> dict[str, Any] | None:
        """The notes of a part; None if it has not been written."""
        path = self.path(name)
        if not path.exists():
            return None
        return json.loads(pq.read_schema(path).metadata[_NOTES])

    def write(
        self, name: str, table: pa.Table, notes: Mapping[str, Any], compressed: bool = True
    ) -> None:
        """Write a part. It is there completely or not at all."""
        schema = table.schema.with_metadata({_NOTES: json.dumps(notes)})
        with replacing(self.path(name)) as path:
            pq.write_table(
                table.cast(schema),
                path,
                use_dictionary=dictionary_columns(schema),
                compression="snappy" if compressed else "none",
            )


def dictionary_columns(schema: pa.Schema) -> list[str]:
    """The columns that are stored as a dictionary: numbers with few distinct values."""
    return [
        field.name
        for field in schema
        if not pa.types.is_nested(field.type) and not field.name.startswith(_RANDOM)
    ]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name, and rename it to `path` when the content is on the disk."""
    temporary = path.with_name(f"{path.name}.tmp")
    yield temporary
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
