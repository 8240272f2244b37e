"""Settings: which interactions are positives, and which columns are features of which kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    Extra,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    conint,
    root_validator,
    validator,
)

from twotower.workflows.features.sides import Side

if TYPE_CHECKING:
    Length = int
    Value = str | int | float
else:
    Value = StrictStr | StrictInt | StrictFloat
    # Of a list. A request to the server can contain no longer one.
    Length = conint(gt=0, le=4096)


WEIGHTS = (1e-12, 1e12)
"""Smallest and largest weight of an interaction: their ratios are finite in float32."""


TIME_CATEGORIES = ("hour_of_day", "day_of_week", "month", "bucket")
"""The values of the setting `features.time` that are categories; the other one is a number."""


class PositivesConfig(BaseModel, extra=Extra.forbid):
    """Which interactions count as positives, and how much each weighs in training."""

    column: str | None = Field(
        None,
        description="Column of the interactions that tells positives from other rows, by "
        "`at_least` or `values`. Without it, every interaction is a positive.",
    )
    at_least: float | None = Field(
        None,
        ge=-1e300,
        le=1e300,
        description="Threshold, 1 by default: an interaction is a positive if its value in "
        "`column` is greater than or equal to it.",
    )
    values: list[Value] | dict[str, float] = Field(
        [],
        description="Instead of `at_least`: an interaction is a positive if its value in `column` "
        "is one of these, such as [purchase, addtocart]. As a mapping, such as {purchase: 5, "
        "addtocart: 1}, it also gives the weight in training of an interaction with the value.",
    )
    weight: str | None = Field(
        None,
        description="Column of the interactions with the weight of a positive in training, such "
        "as a count: a positive of weight 2 counts as two of weight 1. Weights are numbers above "
        "0; those of repeated pairs are added up. Without it, and without weights in `values`, "
        "all pairs weigh the same.",
    )
    weight_transform: Literal["none", "sqrt", "log1p"] = Field(
        "none",
        description="Function of each pair's total weight: sqrt, or log1p (the logarithm of 1 + "
        "the weight), make a few very large counts less dominant.",
    )

    @validator("at_least", pre=True)
    def _check_number(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"{value!r} is a text; name the events that are positives in values")
        return value

    @validator("values", pre=True)
    def _check_values(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for value, weight in values.items():
                number = isinstance(weight, int | float) and not isinstance(weight, bool)
                if not number or not WEIGHTS[0] <= weight <= WEIGHTS[1]:
                    raise ValueError(
                        f"{value}: the weight is {weight!r}; give a number from {WEIGHTS[0]:g} to "
                        f"{WEIGHTS[1]:g}"
                    )
        elif isinstance(values, list):
            for value in values:
                if isinstance(value, bool) or not isinstance(value, str | int | float):
                    raise ValueError(
                        f"{value!r} is neither a text nor a number; put texts in quotes"
                    )
                if not isinstance(value, str) and not abs(value) < 2**63:
                    raise ValueError(f"{value!r}: give numbers below 2^63")
        return values

    @root_validator(skip_on_failure=True)
    def _fit_together(cls, config: dict[str, Any]) -> dict[str, Any]:
        for name in ("at_least", "values"):
            if config[name] not in (None, [], {}) and config["column"] is None:
                raise ValueError(f"{name}: name the column that it is compared with in column")
        if config["values"] and config["at_least"] is not None:
            raise ValueError("at_least and values both say which rows are positives; remove one")
        if config["weight"] and isinstance(config["values"], dict):
            raise ValueError(
                "values and weight both give weights; make values a list, or remove weight"
            )
        if config["weight_transform"] != "none" and not cls.construct(**config).has_weights:
            raise ValueError(
                "weight_transform: there are no weights; give weight, or weights in values"
            )
        return config

    @property
    def threshold(self) -> float:
        """The value of `at_least`, or its default."""
        return 1.0 if self.at_least is None else self.at_least

    @property
    def has_weights(self) -> bool:
        """Whether positives have weights."""
        return self.weight is not None or bool(isinstance(self.values, dict) and self.values)

    @property
    def columns(self) -> list[str]:
        """The columns of the interactions that the settings name, each once."""
        return list(dict.fromkeys(name for name in (self.column, self.weight) if name is not None))


class FeaturesConfig(BaseModel, extra=Extra.forbid):
    """Which columns are inputs of the two towers, and how each is encoded."""

    # Names of columns in the tidy tables. Other names are mapped when the data is read.
    user_id: ClassVar[str] = "user_id"
    item_id: ClassVar[str] = "item_id"
    history_column: ClassVar[str] = "history"
    time_column: ClassVar[str] = "timestamp"

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
    context: list[str] = Field(
        [],
        description="Categorical columns of the interactions that belong to the interaction, not "
        "to the user, such as the month or the place. The query tower reads the row's own value in "
        "training and in the evaluation, and the request's at serving time.",
    )
    context_numeric: list[str] = Field(
        [], description="Numeric columns of the interactions, used like those in `context`."
    )
    time: list[Literal["hour_of_day", "day_of_week", "month", "bucket", "number"]] = Field(
        [],
        description="Context made from the column timestamp of the interactions; at serving time "
        "from the time in the request, or else from the server's clock. hour_of_day, day_of_week "
        "and month are categories. bucket is the interval of time, of `time_buckets` with equally "
        "many training rows, as a category; number is the time as a normalised number. Both treat "
        "a time outside the training part as its first or last one.",
    )
    time_buckets: int = Field(
        100, ge=2, le=100_000, description="Number of intervals for `bucket` in `time`."
    )
    time_zone: str = Field(
        "UTC",
        description="Zone of hours, days and months in `time`, by its IANA name, such as "
        "Europe/Berlin; daylight saving time is followed.",
    )
    user_numeric: list[str] = Field([], description="Numeric columns of the user table.")
    item_numeric: list[str] = Field([], description="Numeric columns of the item table.")
    user_vectors: dict[str, Length] = Field(
        {},
        description="Columns of the user table that contain pretrained vectors, such as the "
        "embedding of a text, as {column: length of a vector}. They are scaled to length 1 and "
        "projected by a learned matrix. A missing vector is allowed.",
    )
    item_vectors: dict[str, Length] = Field(
        {},
        description="The same of the item table. With vectors, an item without any interaction is "
        "recommended by what it is. See also ingest.vectors, for .npy files.",
    )
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
            vectors=self.user_vectors,
        )
        item = Side(
            name="item",
            id=self.item_id,
            categorical=self.item,
            multi_hot={**self.item_multi_hot, **self.item_text},
            numeric=self.item_numeric,
            text=list(self.item_text),
            vectors=self.item_vectors,
        )
        return user, item

    @property
    def of_interaction(self) -> Side:
        """The context: columns of the interactions, and of `time`, that the query tower reads."""
        made = self.time_columns
        categories = [made[kind] for kind in made if kind in TIME_CATEGORIES]
        numbers = [made[kind] for kind in made if kind not in TIME_CATEGORIES]
        return Side(
            name="context",
            id=self.user_id,
            categorical=[*self.context, *categories],
            multi_hot={},
            numeric=[*self.context_numeric, *numbers],
        )

    @property
    def context_columns(self) -> list[str]:
        """The columns of the context: those of the interactions and those made from the time."""
        side = self.of_interaction
        return [*side.categorical, *side.numeric]

    @property
    def stored_context(self) -> list[str]:
        """The columns of the context that the interactions have."""
        return [*self.context, *self.context_numeric]

    @property
    def time_columns(self) -> dict[str, str]:
        """The column that is made for each value of `time`."""
        return {kind: f"time_{kind}" for kind in self.time}

    @validator("time")
    def _each_once(cls, kinds: list[str]) -> list[str]:
        if repeated := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
            raise ValueError(f"{', '.join(repeated)}: named twice; name each once")
        return kinds

    @validator("time_zone")
    def _zone_exists(cls, name: str) -> str:
        if name != "UTC":  # which needs no data base of zones
            try:
                ZoneInfo(name)
            except (OSError, ValueError, LookupError):
                raise ValueError(
                    f"{name!r} is no time zone that this machine knows; give an IANA name such as "
                    "Europe/Berlin, or UTC"
                ) from None
        return name

    @root_validator(skip_on_failure=True)
    def _no_column_is_used_twice(cls, values: dict[str, Any]) -> dict[str, Any]:
        config = cls.construct(**values)
        sides = config.sides
        if values["history"] and cls.history_column in values["user_multi_hot"]:
            raise ValueError(
                f"features.history makes the column {cls.history_column!r}, which "
                "features.user_multi_hot names too; rename the column in the data"
            )
        if cls.item_id in config.context_columns or cls.user_id in config.context_columns:
            raise ValueError("features.context: the ids are features already; remove them")
        columns = [column for side in sides for column in [*side.columns, *side.vectors]]
        columns += config.context_columns
        if values["time"]:  # requests have an input of this name
            columns.append(cls.time_column)
        # `Side.multi_hot` contains such a column only once.
        columns += values["item_text"].keys() & values["item_multi_hot"]
        repeated = sorted({column for column in columns if columns.count(column) > 1})
        if repeated:
            raise ValueError(
                f"{', '.join(repeated)}: named twice; a column can be used once, on one side or as "
                "context, and as one kind. To use it again, copy it under another name"
            )
        return values
