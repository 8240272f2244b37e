"""A trained ranking network as a TensorFlow SavedModel, and its conversion to ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from twotower.serving.operators.base import ONNX_OPSET
from twotower.serving.runtime.operators.query_tower import in_blocks
from twotower.serving.runtime.ranking.rank_candidates import (
    FEATURES,
    HEAD,
    ITEMS,
    USER_PART,
    USERS,
)


class SavedRanking:
    """The functions `user_part` and `head` of a SavedModel, on arrays.

    Parameters
    ----------
    folder : Path
        The SavedModel.
    user_columns : list of str
        What `user_part` reads.
    slope, intercept : float
    bends : sequence of (float, float), optional
        A candidate with the logit x is a positive with the probability sigmoid(slope * x +
        intercept + the sum of change * max(x - knot, 0) over the bends (knot, change)).
    """

    def __init__(
        self,
        folder: Path,
        user_columns: list[str],
        slope: float,
        intercept: float,
        bends: Sequence[tuple[float, float]] = (),
    ) -> None:
        self.folder, self.user_columns = folder, user_columns
        self.slope, self.intercept, self.bends = slope, intercept, tuple(bends)

    def user_parts(self, columns: Mapping[str, np.ndarray], rows: int) -> np.ndarray:
        """Return the user parts float32 [rows, d] of encoded columns, with lists as in a table."""
        if not self.user_columns:
            return np.zeros((rows, 0), np.float32)
        widths = {name: self._width(name) for name in self.user_columns}
        return in_blocks(columns, widths, lambda block: self._user_part(block).numpy())

    def probabilities(
        self, users: np.ndarray, items: np.ndarray, features: np.ndarray
    ) -> np.ndarray:
        """Return the probabilities float32 [m] of candidates, see `RankingNetwork.head`."""
        return self._probability(users, items, features).numpy()

    @property
    def widths(self) -> tuple[int, int, int]:
        """The widths of the inputs of `head`: user part, item part and features."""
        signature = self._module.head.concrete_functions[0].structured_input_signature[0]
        users, items, features = (spec.shape[1] for spec in signature)
        return users, items, features

    def convert(self, out: Path) -> None:
        """Write the ONNX graphs of both functions; none for users without columns."""
        import tensorflow as tf

        names = (USERS, ITEMS, FEATURES)
        specs = [
            tf.TensorSpec([None, width], tf.float32, name=name)
            for name, width in zip(names, self.widths, strict=True)
        ]
        _save_onnx(self._probability, specs, out / HEAD)
        if self.user_columns:
            specs = []
            for name in self.user_columns:
                width = self._width(name)
                shape = (None,) if width == 1 else (None, width)
                specs.append(tf.TensorSpec(shape, tf.int64, name=name))

            def part(*columns: Any) -> Any:
                return self._user_part(dict(zip(self.user_columns, columns, strict=True)))

            _save_onnx(part, specs, out / USER_PART)

    @cached_property
    def _module(self) -> Any:
        import tensorflow as tf

        return tf.saved_model.load(str(self.folder))

    def _probability(self, users: Any, items: Any, features: Any) -> Any:
        import tensorflow as tf

        logits = self._module.head(*map(tf.convert_to_tensor, (users, items, features)))
        scaled = self.slope * logits + self.intercept
        for knot, change in self.bends:
            scaled += change * tf.nn.relu(logits - knot)
        return tf.sigmoid(scaled)

    def _user_part(self, columns: Mapping[str, Any]) -> Any:
        """Compute user parts from columns [n] or [n, width]."""
        import tensorflow as tf

        feed = {
            name: tf.cast(tf.reshape(column, [-1, self._width(name)]), tf.int32)
            for name, column in columns.items()
        }
        return self._module.user_part(feed)

    def _width(self, name: str) -> int:
        signature = self._module.user_part.concrete_functions[0].structured_input_signature[0]
        return signature[0][name].shape[1]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_module"}


def _save_onnx(function: Callable[..., Any], specs: list[Any], path: Path) -> None:
    """Write a function of tensors with these specifications as an ONNX graph."""
    import tensorflow as tf
    import tf2onnx

    traced = tf.function(function, input_signature=specs, autograph=False)
    tf2onnx.convert.from_function(
        traced, input_signature=specs, opset=ONNX_OPSET, output_path=str(path)
    )
