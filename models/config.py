"""The settings of the towers and of the loss between them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Extra, Field, conint, root_validator, validator

from twotower.models.objective.build import (
    LEAST_TEMPERATURE,
    OF_COSINES,
    ObjectiveConfig,
    SelfSupervisedConfig,
)

MOST_COMPARED = 200  # values of a list that attend to each other
Width = conint(gt=0, le=65_536)


class TwoTowerConfig(BaseModel, extra=Extra.forbid):
    """Shape of the towers and of the softmax between them."""

    dim: Width = Field(64, description="output dimension of both towers")
    hidden: list[Width] = Field(
        [],
        max_items=100,
        description="none: a tower is the sum of its embeddings, each of size dim, and of each "
        "number times a vector; otherwise embeddings and numbers are concatenated and pass these "
        "layers and a projection to dim",
    )
    layers: Literal["mlp", "residual", "cross"] = Field(
        "mlp",
        description="what the hidden layers are: ReLU layers of these widths; residual layers, "
        "which add to their input a ReLU layer of this width, projected back; DCN-v2's cross "
        "layers, which multiply the input with products of it by matrices of these ranks",
    )
    shared: list[Width] = Field(
        [],
        max_items=100,
        description="widths of ReLU layers that follow in both towers with the same weights, and "
        "then a projection to dim, the same too; none: the towers have nothing in common",
    )
    mimic_weight: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="weight of the loss by which a second vector of every user and item, an input "
        "of its tower, learns to be like what the other tower answers: models/augmented.py; 0: no "
        "such vectors. Needs hidden layers",
    )
    feature_dim: Width = Field(
        16, description="size of the embeddings beside the id's, when there are hidden layers"
    )
    buckets: int = Field(
        0,
        ge=0,
        le=65_536,
        description="also bin each number into this many buckets, equally likely under a normal "
        "distribution, each with its own embedding; 2 or more, 0: none",
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="dropout after each hidden layer; of residual and cross layers what they add "
        "to their input is dropped",
    )
    feature_dropout: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="share of training values (but item ids) replaced by out-of-vocabulary, so "
        "that unknown users and unseen values meet a trained embedding",
    )
    cold_count: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="every item's id is hidden about this often an epoch, so that an item without "
        "positives is scored by its features, as if it had this many",
    )
    history_pooling: Literal["sum", "mean", "sqrtn", "attention", "self_attention"] = Field(
        "mean",
        description="what the embeddings of a user's items are added up to, where there is "
        "features.history: divided by nothing, their number, or its square root; or a mean "
        "weighted by the softmax of what a learned query makes of each; or, in their order, a mean "
        "after each has attended to all of them, which needs features.history to be short, like 50",
    )
    history_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of a history's items left out in a training step"
    )
    normalize: bool = Field(
        True,
        description="L2-normalise what the towers answer, so that scores are cosines; else they "
        "are inner products",
    )
    embedding_l2: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="added to the loss times the sum of the squares of a batch's embeddings: of "
        "every different user and item of it once, however many interactions it has, and of every "
        "categorical column of theirs the embedding that is looked up (of a list what its known "
        "values' are pooled to). Summed, not averaged as the rest of the loss; vectors and buckets "
        "of numbers, augmented vectors and hidden layers are left out",
    )
    temperature: float = Field(0.2, ge=1e-4, le=1e4, description="logits are score / temperature")
    learn_temperature: bool = Field(
        False, description="begin with that temperature and learn it with the towers"
    )
    softmax_precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the factors of the softmax's matrix products in training"
    )
    logq: float = Field(
        1.0,
        ge=0,
        le=100,
        description="weight of the logQ correction; 1 is the textbook one, 0 none",
    )
    logq_estimate: Literal["counts", "streaming"] = Field(
        "counts",
        description="where it knows from how often an item is a negative: the positives of the "
        "training part, counted beforehand; or the batches, from which it learns that as they "
        "come. An update counts",
    )
    objective: ObjectiveConfig = Field(
        ObjectiveConfig(), description="the loss and its negatives: models/objective.py"
    )
    self_supervised: SelfSupervisedConfig | None = Field(
        None,
        description="a second task, which also teaches items without positives: to know an item by "
        "a part of its features; by default none",
    )

    @validator("buckets")
    def _tell_numbers_apart(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one bucket has all numbers: set 2 or more, or 0 for none")
        return value

    @root_validator(skip_on_failure=True)
    def _fits_the_objective(cls, values: dict) -> dict:
        objective = values["objective"]
        if objective.corrected_logq and values["logq"] != 1:
            raise ValueError("objective.corrected_logq is a whole correction: logq is to be 1")
        if values["learn_temperature"] and objective.loss in OF_COSINES:
            raise ValueError(f"learn_temperature: objective.loss {objective.loss} has none")
        if values["learn_temperature"] and values["temperature"] < LEAST_TEMPERATURE:
            raise ValueError(f"learn_temperature: temperature is {LEAST_TEMPERATURE} or more")
        if values["softmax_precision"] != "float32" and not objective.is_default:
            raise ValueError("softmax_precision is of the default objective")
        if values["logq_estimate"] == "streaming" and (
            objective.negatives not in ("in_batch", "cross_batch")
            or objective.loss != "softmax"
            or not values["logq"]
        ):
            raise ValueError(
                "logq_estimate: streaming is of items that are negatives as positives of batches: "
                "of the softmax with negatives in_batch or cross_batch, and logq above 0"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _penalty_of_the_batch(cls, values: dict) -> dict:
        # The towers add it to the loss wherever they look an embedding up.
        if values["self_supervised"] and values["embedding_l2"]:
            raise ValueError(
                "embedding_l2 would count the embeddings of self_supervised's views with those of "
                "the batch: one of them is to be left out"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _augmented_beside_others(cls, values: dict) -> dict:
        if values["mimic_weight"] and not values["hidden"]:
            raise ValueError(
                "mimic_weight needs hidden layers: in a sum of embeddings the augmented vector "
                "would be nothing but a second embedding of the id"
            )
        return values
