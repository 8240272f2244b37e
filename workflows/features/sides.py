"""The columns of one tower by kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from twotower.workflows.features.names import internal_name


class Side(NamedTuple):
    """The columns of one tower that are in one table, or the context.

    Attributes
    ----------
    name : str
        "user" or "item"; "context" for the columns of the interactions.
    id : str
        The id column; for the context that of the user.
    categorical, numeric : list of str
    multi_hot : dict of str to int
        List columns, with the maximum number of values per row.
    history : str or None
        The column of `multi_hot` that lists the user's own items.
    text : sequence of str
        The columns of `multi_hot` that contain text in the table.
    vectors : mapping of str to int
        Columns of pretrained vectors, with their length. They are not among `columns`, because the
        feature graph does not read them: see `workflows.vectors`.
    """

    name: str
    id: str
    categorical: list[str]
    multi_hot: dict[str, int]
    numeric: list[str]
    history: str | None = None
    text: Sequence[str] = ()
    vectors: Mapping[str, int] = {}

    @property
    def columns(self) -> list[str]:
        """The id, then the features by kind."""
        return [self.id, *self.categorical, *self.multi_hot, *self.numeric]

    @property
    def internal(self) -> Side:
        """The same columns with their internal names."""
        return self._replace(
            categorical=[internal_name(column) for column in self.categorical],
            multi_hot={internal_name(column): n for column, n in self.multi_hot.items()},
            numeric=[internal_name(column) for column in self.numeric],
            text=[internal_name(column) for column in self.text],
            vectors={internal_name(column): n for column, n in self.vectors.items()},
        )
