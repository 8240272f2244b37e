"""The row of each user in the user table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from merlin.dag import ColumnSelector
from merlin.schema import ColumnSchema, Schema
from merlin.table import TensorTable

from twotower.serving.operators.base import ServedOperator
from twotower.serving.runtime.contract import row_of


class UserRows(ServedOperator):
    """Finds the row of each user in the user table, by which features and seen items are stored.

    The row of a user who is not in the table is the table's number of rows.

    Parameters
    ----------
    user_ids : ndarray of int64, shape (u,)
        Ids of the user table, ascending.
    user_id : str
        Name of the column of user ids.
    """

    def __init__(self, user_ids: np.ndarray, user_id: str) -> None:
        super().__init__()
        self.user_ids, self.user_id = pd.Index(user_ids), user_id

    def compute_output_schema(
        self, input_schema: Schema, col_selector: ColumnSelector, prev_output_schema: Any = None
    ) -> Schema:
        return Schema([ColumnSchema(row_of(self.user_id), dtype=np.int64)])

    def transform(self, col_selector: ColumnSelector, transformable: TensorTable) -> TensorTable:
        rows = self.user_ids.get_indexer(transformable[self.user_id].values)
        rows = np.where(rows < 0, len(self.user_ids), rows).astype(np.int64)
        return TensorTable({row_of(self.user_id): rows})

    def compile(self, out: Path, schema: Schema) -> dict[str, Any]:
        np.save(out / "user_ids.npy", self.user_ids.to_numpy())
        return {"user_id": self.user_id}
