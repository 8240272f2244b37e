"""The settings of training: of a fit, of the closed-form start and of an update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Extra, Field

from twotower.models.objective.negatives import SAMPLERS
from twotower.models.towers.options import MAX_ATTENTION_LENGTH

if TYPE_CHECKING:
    from twotower.models.config import TwoTowerConfig

MAX_INT = 2**31 - 1  # TensorFlow's seeds are int32
BY_USER = "by_user"


class SparseConfig(BaseModel, extra=Extra.forbid):
    """The closed form of large catalogues; choose the values on valid."""

    neighbours: int = Field(
        200,
        gt=0,
        le=100_000,
        description="number of neighbours that are kept per item. Memory and time grow with it",
    )
    history_power: float = Field(
        0.5,
        ge=-10,
        le=10,
        description="a user's item with n users counts n ** -history_power in the scores of its "
        "neighbours; 0: all the same, 1: rare items count most",
    )
    candidate_power: float = Field(
        0.3,
        ge=-10,
        le=10,
        description="the score of an item with n users is multiplied by n ** -candidate_power; 0: "
        "popular items are recommended most, 1: rare ones are",
    )
    targets: int = Field(
        200,
        gt=0,
        le=100_000,
        description="number of neighbours of the user's items that the vectors are fitted to, "
        "beside the user's items themselves. Memory and time grow with it",
    )
    unobserved: float = Field(
        0.01,
        ge=1e-6,
        le=1000,
        description="weight of the pairs of users and items that are neither positives nor "
        "targets, relative to those that are",
    )
    l2: float = Field(
        0.001,
        ge=1e-6,
        le=1000,
        description="L2 regularization of the vectors, relative to the weight of all pairs of the "
        "user or item",
    )
    sweeps: int = Field(
        4,
        gt=0,
        le=1000,
        description="number of times that all vectors are solved for, those of the users and those "
        "of the items in turn",
    )


class ClosedFormConfig(BaseModel, extra=Extra.forbid):
    """Towers solved without gradient descent; choose the values on valid."""

    method: Literal["auto", "exact", "sparse"] = Field(
        "auto",
        description="exact: item-item regression, best where items have many users; reads `l2`, "
        "`popularity_l2` and `most_items`. sparse: factorised neighbourhoods, for catalogues of "
        "any size; reads `sparse`. auto: exact up to `most_items` items with positives, else "
        "sparse",
    )
    l2: float = Field(
        300.0,
        ge=1e-6,
        le=1e12,
        description="L2 regularization that is the same for all items, in units of users: it is "
        "added to each item's number of users in the regression",
    )
    popularity_l2: float = Field(
        0.3,
        ge=0,
        le=1e6,
        description="L2 regularization proportional to each item's number of users: this fraction "
        "of the number is added to it. Dropout of the histories with rate d corresponds to "
        "d / (1 - d)",
    )
    user_power: float = Field(
        0.5,
        ge=-10,
        le=10,
        description="a user with n positives has the weight n ** -user_power, scaled to a mean of "
        "1; 0: all interactions weigh the same, 1: all users do",
    )
    most_items: int = Field(
        10_000,
        gt=1,
        le=1_000_000,
        description="number of items that `exact` solves for, the most popular first; the others "
        "start with zero vectors. Memory is 24 bytes times its square; time grows with its cube",
    )
    sparse: SparseConfig = Field(
        default_factory=SparseConfig, description="Settings of the method `sparse`."
    )
    max_memory: float = Field(
        8.0,
        gt=0,
        le=1e6,
        description="memory in GB that solving may take in addition to the towers and the data; "
        "more is refused before it begins",
    )


class TrainingConfig(BaseModel, extra=Extra.forbid):
    """How the towers are fitted."""

    batch_size: int = Field(
        1024,
        gt=1,
        le=1 << 24,
        description="interactions per training step; with in-batch negatives, the negatives of "
        "each are the items of the others",
    )
    order: Literal["shuffled", "by_user"] = Field(
        "shuffled",
        description="order of the interactions in an epoch. shuffled: at random; by_user: users at "
        "random, and the interactions of each side by side. A batch then has few users, and with "
        "negatives from the whole catalogue an epoch takes a fraction of the time. Histories then "
        "contain the positive to be found, as in LightGCN",
    )
    gather_negatives: bool = Field(
        False,
        description="with several workers (horovodrun): the negatives of a worker are also the "
        "items in the batches of the others, as if one process had the batches of all. Needs "
        "model.objective.negatives in_batch. Without effect on one process",
    )
    epochs: int = Field(
        20, gt=0, le=1_000_000, description="maximum number of passes over the training part"
    )
    patience: int = Field(
        3,
        gt=0,
        le=1_000_000,
        description="number of epochs without improvement of `monitor` after which training stops",
    )
    monitor: str = Field(
        "ndcg@10",
        description="full-catalogue metric on the valid part that chooses the best epoch; higher "
        "is better",
    )
    optimizer: Literal["adam", "lazy_adam", "adagrad", "rowwise_adagrad"] = Field(
        "lazy_adam",
        description="adam updates every row of every embedding table in each step; the others "
        "update only the rows in the batch, so that the cost of a step does not depend on the "
        "vocabulary size",
    )
    learning_rate: float = Field(
        0.005, gt=0, le=1000, description="learning rate of the first epoch"
    )
    learning_rate_decay: float = Field(
        0.85,
        gt=0,
        le=1,
        description="factor applied to the learning rate after every epoch; 1: it stays constant",
    )
    warmup: int = Field(
        0,
        ge=0,
        le=MAX_INT,
        description="number of steps over which the learning rate rises linearly to its value; "
        "0: no warm-up",
    )
    average: float | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="epochs over which the weights are averaged, with weights that fall "
        "exponentially into the past. The averages are validated, kept and served, and vary less "
        "from epoch to epoch. They take as much memory as the weights, and every step reads all "
        "of both, so that its cost grows with the vocabulary. An update on a sample does not use "
        "them. none: the weights of the last step",
    )
    checkpoint_seconds: float = Field(
        30,
        gt=0,
        le=1e9,
        description="seconds between checkpoints; an interrupted training resumes from the last. "
        "If writing one takes more than a second, at least 30 times as long passes between two",
    )
    start: ClosedFormConfig | None = Field(
        None,
        description="start from towers solved in closed form, see models/training/closed_form. "
        "They count as the first epoch and are kept if no later epoch is better. none: start from "
        "random weights",
    )
    seed: int = Field(
        42,
        ge=0,
        le=MAX_INT,
        description="random seed of the initial weights, shuffling, sampling and dropout",
    )
    deterministic: bool = Field(
        True,
        description="use deterministic operations, so that the same seed gives the same metrics "
        "on the same machine; costs a few percent of the speed",
    )


class UpdateConfig(BaseModel, extra=Extra.forbid):
    """How an update continues to train the model; all other settings are those of `training`."""

    replay: float = Field(
        4.0,
        ge=0,
        le=1e6,
        description="number of earlier interactions, drawn at random, to train on per new one. If "
        "new and drawn ones fill fewer than 64 batches, more are drawn, up to all there are",
    )
    epochs: int = Field(
        4,
        gt=0,
        le=1_000_000,
        description="maximum number of passes over the new and the replayed interactions. A model "
        "with `model.sequence` or `model.graph` passes over all interactions, with the learning "
        "rate of `training`",
    )
    warmup: int = Field(
        0,
        ge=0,
        le=MAX_INT,
        description="number of steps over which the learning rate rises linearly to its value; "
        "0: no warm-up",
    )
    learning_rate: float = Field(
        0.01, gt=0, le=1000, description="learning rate of the first epoch"
    )
    learning_rate_decay: float = Field(
        0.7,
        gt=0,
        le=1,
        description="factor applied to the learning rate after every epoch; 1: it stays constant",
    )
    moving: float = Field(
        0.1,
        ge=0,
        le=1,
        description="fraction of each epoch's change that existing weights keep. 0: they stay as "
        "they are, and only new users and items are learnt; 1: they change freely, and the model "
        "soon forgets interactions that are neither new nor replayed",
    )
    max_loss: float = Field(
        0.1,
        ge=0,
        le=1,
        description="largest accepted drop of training.monitor, relative to the published version "
        "and measured on the test users and items that this version knows. After a larger drop the "
        "update stops without changing anything; 1: no comparison",
    )
    max_changed: float = Field(
        0.5,
        ge=0,
        le=1,
        description="largest accepted fraction of known users or items with other values in at "
        "least half of their columns, which suggests that ids were renumbered. It is measured on "
        "those in the new interactions, or on all known ones if there are no new interactions. "
        "Also the largest accepted fraction of items that are withdrawn. "
        "Above it the update stops before training; 1: no check",
    )
    max_shift: float = Field(
        3.0,
        ge=0,
        le=1e12,
        description="largest accepted shift of a number (features.user_numeric, "
        "features.item_numeric, features.context_numeric, positives.column, positives.weight), "
        "which suggests another unit: the distance of the median of its new values from the range "
        "of 98 % of its earlier values, in widths of that range. Above it the update stops before "
        "training; 0: any median outside the range stops it, 1e12: no check",
    )


def unmet_requirements(config: TwoTowerConfig, has_history: bool, has_context: bool) -> str:
    """List the settings that sums of solved vectors require and the configuration does not have.

    `training.start` and `model.graph` set the towers to such sums.

    Parameters
    ----------
    config : TwoTowerConfig
    has_history : bool
        Whether there is a column with the user's items (`features.history`).
    has_context : bool
        Whether the query tower reads the context (`features.context`).

    Returns
    -------
    str
        "key: required value" of each, separated by commas; empty if all are met.
    """
    settings = {
        "features.history": (has_history, "a number, the maximum items per user"),
        "features.context, features.context_numeric and features.time": (not has_context, "[]"),
        "model.history_pooling": (config.history_pooling == "sum", "sum"),
        "model.tie_history": (not config.tie_history, "false"),
        "model.normalize": (not config.normalize, "false"),
        "model.hidden": (not config.hidden, "[]"),
        "model.shared": (not config.shared, "[]"),
        "model.self_supervised": (config.self_supervised is None, "none"),
        "model.sequence": (config.sequence is None, "none"),
        "model.graph": (config.graph is None, "none"),
    }
    return ", ".join(f"{name}: {value}" for name, (met, value) in settings.items() if not met)


def conflict(
    model: TwoTowerConfig,
    training: TrainingConfig,
    history: int | None,
) -> str | None:
    """Say which settings of the towers and of their training cannot be combined.

    Parameters
    ----------
    model : TwoTowerConfig
    training : TrainingConfig
    history : int or None
        Maximum length of the history, `features.history`.

    Returns
    -------
    str or None
        What is wrong and what to do; None if nothing is.
    """
    objective = model.objective
    if model.history_pooling == "self_attention" and (history or 0) > MAX_ATTENTION_LENGTH:
        return (
            "model.history_pooling: self_attention compares all items of a history with each "
            f"other; set features.history to {MAX_ATTENTION_LENGTH} or less"
        )
    if model.tie_history and not history:
        return "model.tie_history needs a history; set features.history, or tie_history to false"
    if training.gather_negatives and (objective.negatives != "in_batch" or objective.mask_known):
        return (
            "training.gather_negatives needs model.objective.negatives in_batch, and "
            "model.objective.mask_known false; set them, or gather_negatives to false"
        )
    if training.order == BY_USER and SAMPLERS[objective.negatives].in_batch:
        return (
            f"training.order: {BY_USER} cannot be used with model.objective.negatives "
            f"{objective.negatives}: the other positives of a batch are of the same few users; set "
            "negatives to uniform, or order to shuffled"
        )
    return None
