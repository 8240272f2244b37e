"""The plan of a comparison, read from a file in configs/compare, and its outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConstrainedInt, Extra, Field

from twotower.models.evaluation.config import BaselineName
from twotower.models.training.config import MAX_INT
from twotower.pipelines.config import Name
from twotower.pipelines.experiments.experiment import ExperimentConfig


class Seed(ConstrainedInt):
    """A seed that TensorFlow accepts."""

    ge = 0
    le = MAX_INT


class Variant(BaseModel, extra=Extra.forbid):
    """One row of the table."""

    about: str = Field("", description="What the variant is, in one line.")
    family: str = Field(
        "",
        description="The group it belongs to, such as losses or towers. Each family has its own "
        "panel in the plots; variants of the family `reference` are shown in every panel.",
    )
    set: dict[str, Any] = Field(
        {},
        description="Settings of this variant, as `section.key: value`, in the sections model, "
        "training and features.",
    )


class CompareConfig(ExperimentConfig):
    """A file in configs/compare."""

    seeds: list[Seed] = Field(
        [42],
        min_items=1,
        unique_items=True,
        description="Each variant is trained once with each of these values of training.seed.",
    )
    baselines: list[BaselineName] = Field(
        ["popularity", "itemknn", "ease"],
        unique_items=True,
        description="Baselines to include in the table.",
    )
    variants: dict[Name, Variant] = Field(..., description="The variants by name.")


@dataclass(frozen=True)
class Outcome:
    """The result of a job, see `trial.measure`, or the reason why it failed."""

    row: str
    seed: int | None
    result: dict[str, Any] | None = None
    commit: str | None = None  # git commit of the project that produced the result
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """Everything that the report shows."""

    plan: CompareConfig
    monitor: str  # the valid metric that chose the epochs and orders the table
    protocol: str
    synthetic: bool
    outcomes: list[Outcome]

    @property
    def failed(self) -> list[Outcome]:
        """The outcomes without a result."""
        return [outcome for outcome in self.outcomes if outcome.result is None]
