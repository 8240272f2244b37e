"""The settings of the ranking model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Extra, Field, conint, root_validator, validator

from twotower.models.ranking.options import LOSSES, NETWORKS, TWO_LABELS

if TYPE_CHECKING:  # mypy cannot read a type that is computed
    NetworkName = str
    LossName = str
    Width = int
else:
    NetworkName = Literal[tuple(NETWORKS)]
    LossName = Literal[tuple(LOSSES)]
    Width = conint(gt=0, le=65_536)


def _choices(summaries: dict[str, str]) -> str:
    return "; ".join(f"{name}: {summary}" for name, summary in summaries.items())


class ConversionConfig(BaseModel, extra=Extra.forbid):
    """Which positives in a log of impressions are conversions, such as purchases."""

    column: str = Field(..., description="column of the interactions")
    at_least: float = Field(
        1.0,
        ge=-1e300,
        le=1e300,
        description="Minimum value of a conversion in `column`.",
    )


class RankingConfig(BaseModel, extra=Extra.forbid):
    """The second stage: a model that orders the items that the two towers have found."""

    model: NetworkName | None = Field(
        None,
        description=f"network of the ranking model. {_choices(NETWORKS)}. By default none: "
        "there is no second stage",
    )
    candidates: int = Field(
        100,
        ge=2,
        le=1000,
        description="number of items per user that the towers find and the ranking model orders; "
        "a request may ask for at most as many items. With `rows: interactions`, also the maximum "
        "number of rows per user, drawn at random",
    )
    rows: Literal["candidates", "interactions"] = Field(
        "candidates",
        description="what the model learns from. candidates: the items that the towers find for "
        "each user; those in the valid part are positives. interactions: the interactions of the "
        "valid part, for data with impressions that were no positives",
    )
    conversion: ConversionConfig | None = Field(
        None,
        description="which positives are conversions, with `rows: interactions`: the second label "
        "of a network with two labels. A network with one label learns conversions instead of "
        "positives.",
    )
    max_rows: int = Field(
        65_536,
        ge=2,
        le=10_000_000,
        description="largest number of users times candidates in a request",
    )
    profile: list[str] = Field(
        [],
        unique_items=True,
        description="item columns to compare with those of the items in the user's history: "
        "numbers by their distance to the mean, other values by their share of the history",
    )
    embedded: list[str] | None = Field(
        None,
        unique_items=True,
        description="features of users and items, and ids, that the model has embeddings of. By "
        "default all of features.user, item and item_multi_hot, but no ids",
    )
    position: str | None = Field(
        None,
        description="column of the interactions with the place at which an item was shown, with "
        "`rows: interactions`. Training adds a number per place to the logit of the first label, "
        "which answers leave out: they are those of an average place",
    )
    hidden: list[Width] = Field(
        [128, 64], min_items=1, max_items=100, description="sizes of the hidden layers"
    )
    cross_layers: int = Field(
        2, ge=1, le=100, description="number of cross layers of the network dcn"
    )
    experts: int = Field(
        3,
        ge=1,
        le=100,
        description="number of experts of the network mmoe; ple has this many per label and as "
        "many that all labels share. Each has the layers `hidden`",
    )
    expert_layers: int = Field(
        2, ge=1, le=10, description="number of layers of experts of the network ple"
    )
    heads: int = Field(
        4,
        ge=1,
        le=100,
        description="number of vectors of an item, and of each layer of the user tower, in the "
        "network inttower; each has the size `feature_dim`",
    )
    feature_dim: Width = Field(16, description="size of the embeddings")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout rate after each hidden layer")
    loss: LossName | None = Field(
        None,
        description=f"training loss. {_choices(LOSSES)}. By default pairwise; binary for a network "
        "with two labels",
    )
    learning_rate: float = Field(0.003, gt=0, le=100, description="learning rate of Adam")
    batch_users: int = Field(
        128, gt=0, le=1_000_000, description="users per step, each with all their candidates"
    )
    epochs: int = Field(40, gt=0, le=1_000_000, description="maximum number of epochs")
    patience: int = Field(
        8,
        gt=0,
        le=1_000_000,
        description="training stops after this many epochs without a better NDCG@10 of the users "
        "that are held out, or AUC of their rows with `rows: interactions`; the best epoch is kept",
    )
    held_out: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="share of the users with rows in valid that is held out: they choose the "
        "epoch, and the model is measured on them",
    )
    max_users: int = Field(
        20_000,
        ge=10,
        le=10_000_000,
        description="largest number of users, drawn at random, whose candidates are used",
    )

    @property
    def training_loss(self) -> str:
        """The value of `loss`, or its default."""
        return self.loss or ("binary" if self.model in TWO_LABELS else "pairwise")

    @validator("max_rows")
    def _holds_one_user(cls, value: int, values: dict[str, Any]) -> int:
        if "candidates" in values and value < values["candidates"]:
            raise ValueError(
                f"{value} is less than the candidates of one user, {values['candidates']}"
            )
        return value

    @root_validator(skip_on_failure=True)
    def _loss_suits_the_labels(cls, values: dict[str, Any]) -> dict[str, Any]:
        model, loss = values["model"], values["loss"]
        if model in TWO_LABELS and loss not in (None, "binary"):
            raise ValueError(
                f"loss: {loss} has one label, but {model} learns two, each by its cross-entropy; "
                "set ranking.loss to binary, or leave it out"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _settings_suit_the_rows(cls, values: dict[str, Any]) -> dict[str, Any]:
        is_log, conversion = values["rows"] == "interactions", values["conversion"]
        if conversion and not is_log:
            raise ValueError(
                "conversion: candidates are labelled by the positives alone; set ranking.rows to "
                "interactions, or remove ranking.conversion"
            )
        if values["position"] and not is_log:
            raise ValueError(
                "position: candidates have not been shown at a position; set ranking.rows to "
                "interactions, or remove ranking.position"
            )
        if is_log and values["model"] in TWO_LABELS and not conversion:
            raise ValueError(
                f"conversion: {values['model']} learns two labels of each interaction, positive "
                "and conversion; set ranking.conversion, such as {column: conversion}"
            )
        return values

    @property
    def columns(self) -> list[str]:
        """The columns of the interactions that the settings name."""
        conversion = None if self.conversion is None else self.conversion.column
        return [name for name in (conversion, self.position) if name is not None]


def unmet_rows(config: RankingConfig, has_column: bool, repeats: str) -> str | None:
    """Say why there are no rows to learn from.

    Parameters
    ----------
    config : RankingConfig
    has_column : bool
        Whether `positives.column` tells positives from other interactions.
    repeats : str
        The setting `split.repeats`.

    Returns
    -------
    str or None
        The message; None if nothing is wrong.
    """
    is_log = config.rows == "interactions"
    if is_log and repeats == "keep":
        return (
            "ranking.rows: interactions needs pairs that are in one part each, but split.repeats "
            "is keep; set one of the two to its default"
        )
    if has_column:
        return None
    if is_log:
        return (
            "ranking.rows: interactions needs some that are no positives, but without "
            "positives.column all of them are; set it, or set ranking.rows to candidates"
        )
    if config.model in TWO_LABELS:
        return (
            f"ranking.model {config.model} learns which interactions are positives, but without "
            "positives.column all of them are; set it, or choose a network with one label, such "
            "as mlp"
        )
    return None
