"""The values that `tune` may choose for one setting."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, Extra, Field, StrictFloat, StrictInt, root_validator, validator

from twotower.pipelines.config import as_text

if TYPE_CHECKING:
    from optuna import Trial

Number = StrictInt | StrictFloat


class Space(BaseModel, extra=Extra.forbid):
    """A range of numbers or a list of choices. If `low` and `high` are integers, all values are."""

    low: Number | None = Field(None, description="Lowest value.")
    high: Number | None = Field(None, description="Highest value.")
    log: bool = Field(
        False, description="Sample on a logarithmic scale: 1 to 10 is as likely as 10 to 100."
    )
    step: Number | None = Field(None, description="Only low, low + step, low + 2 step and so on.")
    choices: list[Any] | None = Field(None, description="A list of values, instead of a range.")

    @validator("low", "high", "step", pre=True)
    def _number_from_text(cls, value: Any) -> Any:
        # YAML reads 1e-4 as text.
        try:
            return float(value) if isinstance(value, str) else value
        except ValueError:
            raise ValueError(f"{value!r} is not a number") from None

    @validator("low", "high", "step")
    def _finite(cls, value: Number | None) -> Number | None:
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
        return value

    @root_validator(skip_on_failure=True)
    def _range_or_choices(cls, values: dict) -> dict:
        low, high, step = values["low"], values["high"], values["step"]
        if values["choices"] is not None:
            if (low, high, step, values["log"]) != (None, None, None, False):
                raise ValueError("give either choices, or low and high, not both")
            if not values["choices"]:
                raise ValueError("choices: empty; add at least one")
            return values
        if low is None or high is None:
            raise ValueError("give low and high, or choices")
        if low >= high:
            raise ValueError(f"low ({low}) must be less than high ({high})")
        if values["log"] and (low <= 0 or step is not None):
            raise ValueError("log requires a low above 0 and no step")
        if step is not None and step <= 0:
            raise ValueError(f"step ({step}) must be above 0")
        return values

    @property
    def whole(self) -> bool:
        """Whether the values are integers."""
        numbers = [n for n in (self.low, self.high, self.step) if n is not None]
        return all(isinstance(number, int) for number in numbers)

    def extremes(self) -> list[Any]:
        """Return the values to check: if they are valid settings, the others are."""
        return [self.low, self.high] if self.choices is None else self.choices

    def suggest(self, trial: Trial, key: str) -> Any:
        """Return the value that Optuna suggests for `key` in `trial`."""
        if self.choices is not None:
            texts = [as_text(choice) for choice in self.choices]
            return yaml.safe_load(trial.suggest_categorical(key, texts))
        low, high = self._bounds()
        if self.whole:
            step = int(self.step or 1)
            return trial.suggest_int(key, int(low), int(high), step=step, log=self.log)
        return trial.suggest_float(key, low, high, step=self.step, log=self.log)

    def _bounds(self) -> tuple[float, float]:
        assert self.low is not None and self.high is not None  # checked by `_range_or_choices`
        return self.low, self.high

    def has(self, value: Any) -> bool:
        """Whether `value` may be chosen."""
        if self.choices is not None:
            return value in self.choices
        low, high = self._bounds()
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not low <= value <= high:
            return False
        step = self.step or (1 if self.whole else None)
        steps = (value - low) / step if step else 0.0
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    def stored(self, value: Any) -> Any:
        """Return `value` as the study stores it: choices as text, since they may be lists."""
        return as_text(value) if self.choices is not None else value
