"""What a search may choose from for one setting."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, Extra, Field, StrictFloat, StrictInt, root_validator, validator

from twotower.pipelines.experiments.experiment import as_text

if TYPE_CHECKING:
    from optuna import Trial

Number = StrictInt | StrictFloat


class Space(BaseModel, extra=Extra.forbid):
    """Numbers from low to high, whole ones when both are, or a list of choices."""

    low: Number | None = Field(None, description="the least")
    high: Number | None = Field(None, description="the greatest")
    log: bool = Field(False, description="as many from 1 to 10 as from 10 to 100")
    step: Number | None = Field(None, description="only low, low + step, ...")
    choices: list[Any] | None = Field(None, description="one of these, of any kind")

    @validator("low", "high", "step", pre=True)
    def _as_people_write_it(cls, value: Any) -> Any:
        # To YAML 1e-4 is a text.
        try:
            return float(value) if isinstance(value, str) else value
        except ValueError:
            raise ValueError(f"{value!r} is no number") from None

    @validator("low", "high", "step")
    def _finite(cls, value: Number | None) -> Number | None:
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{value} is no number that can be chosen")
        return value

    @root_validator(skip_on_failure=True)
    def _one_kind(cls, values: dict) -> dict:
        low, high, step = values["low"], values["high"], values["step"]
        if values["choices"] is not None:
            if (low, high, step, values["log"]) != (None, None, None, False):
                raise ValueError("either choices, or low and high")
            if not values["choices"]:
                raise ValueError("choices: there are none")
            return values
        if low is None or high is None:
            raise ValueError("give low and high, or choices")
        if low >= high:
            raise ValueError(f"low ({low}) is to be less than high ({high})")
        if values["log"] and (low <= 0 or step is not None):
            raise ValueError("log needs a low above 0, and no step")
        if step is not None and step <= 0:
            raise ValueError(f"step ({step}) is to be above 0")
        return values

    @property
    def whole(self) -> bool:
        """Whether the numbers are whole ones."""
        numbers = [n for n in (self.low, self.high, self.step) if n is not None]
        return all(isinstance(number, int) for number in numbers)

    def extremes(self) -> list[Any]:
        """The values to check: if they can be, the others can."""
        return [self.low, self.high] if self.choices is None else self.choices

    def suggest(self, trial: Trial, key: str) -> Any:
        """The value for `key` in `trial`."""
        if self.choices is not None:
            texts = [as_text(choice) for choice in self.choices]
            return yaml.safe_load(trial.suggest_categorical(key, texts))
        if self.whole:
            return trial.suggest_int(key, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)

    def has(self, value: Any) -> bool:
        """Whether `value` is one that may be chosen."""
        if self.choices is not None:
            return value in self.choices
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high:
            return False
        step = self.step or (1 if self.whole else None)
        steps = (value - self.low) / step if step else 0.0
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    def stored(self, value: Any) -> Any:
        """`value` as the study keeps it: choices as text, since they may be lists."""
        return as_text(value) if self.choices is not None else value
