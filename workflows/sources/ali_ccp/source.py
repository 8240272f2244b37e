"""The source `ali-ccp-raw`: the official text files of Ali-CCP."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa

from twotower.workflows.errors import DataError
from twotower.workflows.sources.ali_ccp.config import AliCCPConfig
from twotower.workflows.sources.ali_ccp.place import (
    find_pairs,
    folders,
    has_files,
    is_synthetic,
)
from twotower.workflows.sources.base import IdTypes, OnMessage, Progress, Source, ignore
from twotower.workflows.sources.findings import Findings
from twotower.workflows.sources.wanted import Wanted
from twotower.workflows.stored import StoredTables


class AliCCPRaw(Source):
    """Impressions with clicks and conversions, from text files of any size.

    The interactions are all impressions, in the order of the files, train before test, with the
    column `part`. contexts.parquet has the common features of the impressions; the column
    `common` of an impression is the number of its row there. In an update it is null.
    """

    name = "ali-ccp-raw"
    contents = "Ali-CCP (sample_skeleton_train.csv, common_features_train.csv)"

    def __init__(self, path: Path | None, settings: AliCCPConfig, wanted: Wanted | None = None):
        super().__init__(path, settings, wanted)
        self._temporary: tempfile.TemporaryDirectory | None = None

    @property
    def keeps_repeats(self) -> bool:
        """An item may be shown to a user more than once."""
        return True

    @property
    def synthetic(self) -> bool:
        """Whether the folder has the file that marks generated data."""
        return is_synthetic(self.path)

    @classmethod
    def recognise(cls, path: Path) -> Path | None:
        """The folder that has one of the four files: `path` or a folder in it."""
        return next((each for each in folders(path) if has_files(each)), None)

    def files(self) -> list[Path]:
        """The files of the training part, and of the test part if there is one."""
        return [path for pair in find_pairs(self.path, True) for path in pair[1:]]

    def read(
        self, progress: Progress | None = None, on_message: OnMessage = ignore
    ) -> StoredTables:
        """Convert the files to parquet. `progress` counts bytes, those of common features twice.

        A conversion that was interrupted continues, as long as `work` is the same folder.
        """
        from twotower.workflows.sources.ali_ccp.conversion.conversion import Conversion

        pairs = find_pairs(self.path, True)
        findings = Findings.of(on_message)
        work = self._work() / "ali-ccp-raw"
        conversion = Conversion(pairs, work, self.settings, progress, findings)
        self._check_wanted(conversion.columns)
        tables = conversion.run(self.wanted.users, self.wanted.items)
        if len(pairs) == 1:
            findings("there are no test files: all impressions are in part train")
        return tables

    def read_update(
        self,
        folder: Path,
        id_types: IdTypes,
        progress: Progress | None = None,
        on_message: OnMessage = ignore,
    ) -> dict[str, pa.Table]:
        """Convert new files of one part or of both, with the impressions in memory."""
        from twotower.workflows.sources.ali_ccp.conversion.conversion import Conversion

        pairs = find_pairs(folder, False)
        with tempfile.TemporaryDirectory(prefix="ali-ccp-raw-") as work:
            conversion = Conversion(
                pairs, Path(work) / "parts", self.settings, progress, Findings.of(on_message)
            )
            self._check_wanted(conversion.columns)
            made = conversion.run(self.wanted.users, self.wanted.items)
            log = pa.concat_tables(list(made.interactions.batches()))
        place = log.column_names.index("common")
        log = log.set_column(place, "common", pa.nulls(len(log), pa.int64()))
        return {"interactions": log, "users": made.users, "items": made.items}

    def _work(self) -> Path:
        if self.work is not None:
            return self.work
        # It is deleted together with this object.
        self._temporary = self._temporary or tempfile.TemporaryDirectory(prefix="ali-ccp-raw-")
        return Path(self._temporary.name)

    def _check_wanted(self, columns: dict[str, list[str]]) -> None:
        """Raise DataError if a setting names a column that there is not."""
        for table, known in columns.items():
            for name in getattr(self.wanted, table):
                if name not in known:
                    raise DataError(
                        f"no column {name} for the {table}: Ali-CCP has {', '.join(known)}. "
                        "Correct the name under features, positives or show"
                    )
