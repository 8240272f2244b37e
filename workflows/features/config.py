"""Settings: which interactions are positives, and which columns are features of which kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, Extra, Field, conint, root_validator

from twotower.workflows.features.sides import Side

if TYPE_CHECKING:
    Length = int
else:
    # Of a list. A request to the server can contain no longer one.
    Length = conint(gt=0, le=4096)


class PositivesConfig(BaseModel, extra=Extra.forbid):
    """Which interactions count as positives."""

    column: str | None = Field(
        None,
        description="Column of the interactions that is compared with `at_least`. Without it, "
        "every interaction is a positive.",
    )
    at_least: float = Field(
        1.0,
        ge=-1e300,
        le=1e300,
        description="Threshold: an interaction is a positive if its value in `column` is greater "
        "than or equal to it.",
    )


class FeaturesConfig(BaseModel, extra=Extra.forbid):
    """Which columns are inputs of the two towers, and how each is encoded."""

    # Names of columns in the tidy tables. Other names are mapped when the data is read.
    user_id: ClassVar[str] = "user_id"
    item_id: ClassVar[str] = "item_id"
    history_column: ClassVar[str] = "history"

    user: list[str] = Field([], description="Categorical columns of the user table.")
    item: list[str] = Field([], description="Categorical columns of the item table.")
    user_multi_hot: dict[str, Length] = Field(
        {},
        description="Columns of the user table that contain lists, as {column: maximum number of "
        "values per row}. The first values are kept.",
    )
    item_multi_hot: dict[str, Length] = Field(
        {},
        description="Columns of the item table that contain lists, as {column: maximum number of "
        "values per row}. The first values are kept.",
    )
    item_text: dict[str, Length] = Field(
        {},
        description="Columns of the item table that contain text, as {column: maximum number of "
        "words per row}. The first words are kept; workflows/features/text.py splits the text.",
    )
    user_numeric: list[str] = Field([], description="Numeric columns of the user table.")
    item_numeric: list[str] = Field([], description="Numeric columns of the item table.")
    history: Length | None = Field(
        None,
        description="Maximum length of the list of a user's latest positives in the training part, "
        "which is an input of the query tower named history. Without it, there is no such input.",
    )
    min_frequency: int = Field(
        0,
        ge=0,
        le=2**31 - 1,
        description="Minimum number of occurrences in the training part for a value to be in the "
        "vocabulary. 0 keeps all values; rarer values are encoded as out of vocabulary.",
    )

    @property
    def sides(self) -> tuple[Side, Side]:
        """The columns of the user side and of the item side."""
        user_lists, history = self.user_multi_hot, None
        if self.history:
            history = self.history_column
            user_lists = {**user_lists, history: self.history}
        user = Side(
            name="user",
            id=self.user_id,
            categorical=self.user,
            multi_hot=user_lists,
            numeric=self.user_numeric,
            history=history,
        )
        item = Side(
            name="item",
            id=self.item_id,
            categorical=self.item,
            multi_hot={**self.item_multi_hot, **self.item_text},
            numeric=self.item_numeric,
            text=list(self.item_text),
        )
        return user, item

    @root_validator(skip_on_failure=True)
    def _no_column_is_used_twice(cls, values: dict[str, Any]) -> dict[str, Any]:
        sides = cls.construct(**values).sides
        if values["history"] and cls.history_column in values["user_multi_hot"]:
            raise ValueError(
                f"features.history makes the column {cls.history_column!r}, which "
                "features.user_multi_hot names too; rename the column in the data"
            )
        columns = [column for side in sides for column in side.columns]
        # `Side.multi_hot` contains such a column only once.
        columns += values["item_text"].keys() & values["item_multi_hot"]
        repeated = sorted({column for column in columns if columns.count(column) > 1})
        if repeated:
            raise ValueError(
                f"{', '.join(repeated)}: named twice; a column can be used once, on one side and "
                "as one kind. To use it again, copy it under another name"
            )
        return values
