"""The base class of the operators, and what several of them use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from merlin.dag import BaseOperator, DataFormats
from merlin.schema import Schema

ONNX_OPSET, ONNX_IR = 17, 8


class ServedOperator(BaseOperator):
    """An operator on tables of NumPy columns that can be compiled."""

    @property
    def supported_formats(self) -> DataFormats:
        return DataFormats.NUMPY_TENSOR_TABLE

    def compile(self, out: Path, schema: Schema) -> dict[str, Any]:
        """Write what the runtime's operator of the same name needs.

        Parameters
        ----------
        out : Path
            An empty folder.
        schema : merlin.schema.Schema
            The operator's input schema in the graph.

        Returns
        -------
        dict of str to Any
            The operator's entry in plan.json.
        """
        raise NotImplementedError

    def load_artifacts(self, artifact_path: Any = None) -> None:
        """Read what `save_artifacts` wrote.

        Without a path it does nothing: merlin's Graph calls it so.
        """
        if artifact_path:
            self._load(Path(artifact_path))

    def _load(self, folder: Path) -> None:
        pass


def split_rows(values: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Split the values of a list column into the values of each row."""
    return np.split(values, np.cumsum(counts)[:-1])
