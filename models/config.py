"""The settings of the towers, and of the loss that trains them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Extra, Field, conint, root_validator, validator

from twotower.models.graph.config import GraphConfig
from twotower.models.objective.config import (
    MIN_LEARNED_TEMPERATURE,
    ObjectiveConfig,
    SelfSupervisedConfig,
    describe_choices,
)
from twotower.models.objective.losses import LOSSES
from twotower.models.objective.negatives import SAMPLERS
from twotower.models.sequence.config import SequenceConfig
from twotower.models.towers.options import HIDDEN_LAYERS, POOLINGS, Option

if TYPE_CHECKING:  # mypy cannot read a type that is computed
    LayersName = str
    PoolingName = str
    Width = int
else:
    LayersName = Literal[tuple(HIDDEN_LAYERS)]
    PoolingName = Literal[tuple(POOLINGS)]
    Width = conint(gt=0, le=65_536)


OWN_TRAINING: dict[str, Any] = {
    "hidden": [],
    "shared": [],
    "mimic_weight": 0,
    "history_dropout": 0,
    "tie_history": False,
    "embedding_l2": 0,
    "learn_temperature": False,
    "logq_estimate": "counts",
    "self_supervised": None,
}
"""The settings that `sequence` and `graph`, which have a training of their own, both need."""


def _summaries(options: Mapping[str, Option]) -> str:
    return describe_choices({name: option.summary for name, option in options.items()})


class TwoTowerConfig(BaseModel, extra=Extra.forbid):
    """The shape of both towers, and how they are trained against each other."""

    dim: Width = Field(64, description="size of the vectors that both towers compute")
    hidden: list[Width] = Field(
        [],
        max_items=100,
        description="sizes of the hidden layers of each tower. If empty, a tower is the sum of its "
        "embeddings, each of size `dim`, and of each number times a learned vector. Otherwise "
        "embeddings and numbers are concatenated, and the last layer is projected to `dim`",
    )
    layers: LayersName = Field(
        "mlp", description=f"kind of the hidden layers. {_summaries(HIDDEN_LAYERS)}"
    )
    shared: list[Width] = Field(
        [],
        max_items=100,
        description="widths of ReLU layers, followed by a projection to `dim`, at the end of both "
        "towers and with the same weights in both. If empty, the towers share no weights",
    )
    mimic_weight: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="weight of the mimic loss of the dual augmented two-tower model. Each user and "
        "item gets an additional input vector, which learns to imitate the other tower's output "
        "(models/towers/augmented.py). 0: no such vectors. Needs hidden layers",
    )
    feature_dim: Width = Field(
        16,
        description="size of the embeddings other than the user's and item's id; used only with "
        "hidden layers",
    )
    buckets: int = Field(
        0,
        ge=0,
        le=65_536,
        description="also bin each number into this many buckets, equally likely under a normal "
        "distribution, each with its own embedding. 2 or more; 0: numbers are not binned",
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="dropout rate after each hidden layer; residual and cross layers drop out what "
        "they add to their input",
    )
    feature_dropout: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="fraction of categorical values, except item ids and lists, that are replaced "
        "by the out-of-vocabulary code in training, to train its embedding for unknown users and "
        "values",
    )
    cold_count: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="item ids are randomly replaced by the out-of-vocabulary id in training, about "
        "this often per item and epoch. An item without positives is then scored by its features, "
        "as if it had this many positives",
    )
    history_pooling: PoolingName = Field(
        "mean",
        description="how the embeddings of the items in a user's history (features.history) are "
        f"combined. {_summaries(POOLINGS)}",
    )
    tie_history: bool = Field(
        False,
        description="the items of a history have the same embeddings as in the candidate tower, "
        "which are trained by both; otherwise the history has embeddings of its own. Needs "
        "features.history",
    )
    history_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="fraction of the items in each history that is left out at a training step",
    )
    normalize: bool = Field(
        True,
        description="scale the towers' vectors to length 1, so that scores are cosines; otherwise "
        "scores are inner products",
    )
    embedding_l2: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="L2 penalty: this times the sum of the squared embeddings of a batch is added "
        "to the loss. Each distinct user and item counts once, and a list counts as its pooled "
        "vector. Embeddings of numbers, augmented vectors and hidden layers are not penalised",
    )
    temperature: float = Field(
        0.2,
        ge=1e-4,
        le=1e4,
        description="scores are divided by it to give logits; a lower value puts more weight on "
        "the negatives with the highest scores",
    )
    learn_temperature: bool = Field(
        False, description="train the temperature with the towers, starting from `temperature`"
    )
    softmax_precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="precision of the softmax's matrix products in training; bfloat16 changes "
        "scores by up to 1/256 of their size",
    )
    logq: float = Field(
        1.0,
        ge=0,
        le=100,
        description="weight of the logQ correction for how often items are sampled as negatives: 1 "
        "is the textbook's, 0 is none",
    )
    logq_estimate: Literal["counts", "streaming"] = Field(
        "counts",
        description="how sampling probabilities are estimated for the logQ correction. counts: "
        "from the number of positives in the training part; streaming: from the batches, during "
        "training. `twotower update` always uses counts",
    )
    objective: ObjectiveConfig = Field(
        ObjectiveConfig(), description="the loss, its negatives and corrections"
    )
    self_supervised: SelfSupervisedConfig | None = Field(
        None,
        description="an additional task, which also trains items without positives: to recognise "
        "an item by a part of its features. By default none",
    )

    sequence: SequenceConfig | None = Field(
        None,
        description="a query tower that reads the items of the history in their order and nothing "
        "else, and is trained to predict each next item. By default none",
    )
    graph: GraphConfig | None = Field(
        None,
        description="vectors of users and items that are propagated over the graph of the "
        "positives (LightGCN), trained with the softmax. Features of users are not read, and those "
        "of items only for items without positives. By default none",
    )

    @validator("buckets")
    def _check_buckets(cls, value: int) -> int:
        if value == 1:
            raise ValueError("1 bucket would hold all numbers; set 2 or more, or 0 for none")
        return value

    @root_validator(skip_on_failure=True)
    def _check_objective(cls, values: dict[str, Any]) -> dict[str, Any]:
        objective = values["objective"]
        if objective.corrected_logq and values["logq"] != 1:
            raise ValueError(
                f"logq is {values['logq']}, but objective.corrected_logq needs logq to be 1"
            )
        if values["learn_temperature"] and not LOSSES[objective.loss].uses_temperature:
            raise ValueError(
                f"learn_temperature: objective.loss {objective.loss} has no temperature; set "
                "learn_temperature to false"
            )
        if values["learn_temperature"] and values["temperature"] < MIN_LEARNED_TEMPERATURE:
            raise ValueError(
                f"temperature is {values['temperature']}; with learn_temperature it must be "
                f"{MIN_LEARNED_TEMPERATURE} or more"
            )
        if values["softmax_precision"] != "float32" and not objective.is_default:
            raise ValueError(
                "softmax_precision applies to the default objective only; set it to float32, or "
                "remove the settings of objective"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _check_streaming(cls, values: dict[str, Any]) -> dict[str, Any]:
        objective = values["objective"]
        if values["logq_estimate"] == "streaming" and (
            not SAMPLERS[objective.negatives].only_positives
            or LOSSES[objective.loss].kind != "softmax"
            or not values["logq"]
        ):
            names = [name for name, sampler in SAMPLERS.items() if sampler.only_positives]
            raise ValueError(
                "logq_estimate: streaming needs objective.loss softmax, objective.negatives "
                f"{' or '.join(names)}, and logq above 0"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _check_self_supervised(cls, values: dict[str, Any]) -> dict[str, Any]:
        # The towers add the penalty wherever they look up an embedding.
        if values["self_supervised"] and values["embedding_l2"]:
            raise ValueError(
                "embedding_l2 cannot be used with self_supervised, whose views' embeddings it "
                "would penalise too; set embedding_l2 to 0 or remove self_supervised"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _check_mimic_weight(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values["mimic_weight"] and not values["hidden"]:
            raise ValueError(
                "mimic_weight needs hidden layers: without them the augmented vector would only be "
                "a second embedding of the id"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _check_sequence(cls, values: dict[str, Any]) -> dict[str, Any]:
        sequence = values["sequence"]
        if sequence is None:
            return values
        required = {**OWN_TRAINING, "history_pooling": "mean"}
        if sequence.start is not None:
            required["normalize"] = False
        if wrong := _conflicts(values, required):
            raise ValueError(f"sequence trains a query tower of its own; it needs {wrong}")
        if sequence.kind == "transformer" and values["dim"] % sequence.heads:
            raise ValueError(
                f"sequence.heads is {sequence.heads}, which does not divide dim, {values['dim']}"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _check_graph(cls, values: dict[str, Any]) -> dict[str, Any]:
        required = {
            **OWN_TRAINING,
            "history_pooling": "sum",
            "normalize": False,
            "sequence": None,
        }
        if values["graph"] is not None and (wrong := _conflicts(values, required)):
            raise ValueError(f"graph trains sums of embeddings in its own way; it needs {wrong}")
        return values


def _conflicts(values: Mapping[str, Any], required: Mapping[str, Any]) -> str:
    """List the `required` settings, and the default objective, that `values` do not have."""
    wrong = {name: value for name, value in required.items() if values[name] != value}
    if not values["objective"].is_default:
        wrong["objective"] = {}
    shown = {name: "none" if value is None else value for name, value in wrong.items()}
    return ", ".join(f"model.{name}: {value}" for name, value in shown.items())
