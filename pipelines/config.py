"""The configuration of a run: read from YAML, overridden by section.key=value, checked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConstrainedStr, Extra, Field, ValidationError, root_validator

from twotower.models.config import TwoTowerConfig
from twotower.models.evaluation.config import EvaluationConfig
from twotower.models.evaluation.metrics import METRICS
from twotower.models.ranking.config import RankingConfig, unmet_rows
from twotower.models.sequence.config import unmet_features
from twotower.models.training.config import (
    TrainingConfig,
    UpdateConfig,
    conflict,
    unmet_requirements,
)
from twotower.pipelines.config_problems import converted, explained, keys_not_text
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.yaml_file import read_yaml
from twotower.serving.config import ServingConfig
from twotower.workflows.cluster.config import DaskConfig
from twotower.workflows.features.config import FeaturesConfig, PositivesConfig
from twotower.workflows.ingest import IngestConfig
from twotower.workflows.sources.wanted import Wanted
from twotower.workflows.split import SplitConfig

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DEFAULT_CONFIG = Path("twotower.yaml")
"""What `twotower init` writes and `twotower run` uses, in the working directory."""
Model = TypeVar("Model", bound=BaseModel)


class Name(ConstrainedStr):
    """A name that can be part of a file name on every system."""

    max_length = 100

    @classmethod
    def validate(cls, value: str) -> str:
        """Return `value`. Raises ValueError if it cannot be the name of a folder."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            raise ValueError(
                f"{value!r} cannot be the name of a folder; use letters, digits, '.', '_' and "
                "'-', and begin with a letter or digit"
            )
        return value


class Config(BaseModel, extra=Extra.forbid):
    """All settings of a run: one section per component."""

    name: Name = Field(..., description="Name of the run; its folder is `runs/<name>` by default.")
    ingest: IngestConfig = Field(..., description="Where the data comes from.")
    positives: PositivesConfig = Field(
        PositivesConfig(), description="Which interactions count as positives."
    )
    split: SplitConfig = Field(
        SplitConfig(), description="How the positives are split into train, valid and test."
    )
    features: FeaturesConfig = Field(
        FeaturesConfig(), description="Which columns the towers use, and how they are encoded."
    )
    dask: DaskConfig = Field(
        DaskConfig(), description="The processes that preprocess the data, if it is large."
    )
    model: TwoTowerConfig = Field(TwoTowerConfig(), description="The towers and the loss.")
    training: TrainingConfig = Field(TrainingConfig(), description="How the towers are trained.")
    update: UpdateConfig = Field(
        UpdateConfig(), description="How `twotower update` learns from new data."
    )
    ranking: RankingConfig = Field(
        RankingConfig(), description="The second stage, which orders what the towers have found."
    )
    evaluation: EvaluationConfig = Field(
        EvaluationConfig(), description="Metrics, candidates and baselines of the evaluation."
    )
    serving: ServingConfig = Field(
        ServingConfig(), description="The exported model and the server that runs it."
    )
    show: list[str] = Field(
        [], description="Item columns to print beside each recommended item, such as its title."
    )

    @property
    def wanted(self) -> Wanted:
        """The columns that the settings name."""
        of_items = [*self.show, *self.serving.filters, *self.ranking.profile]
        of_log = self.ranking.columns
        return Wanted.of(self.positives, self.split, self.features, of_items, of_log)

    @root_validator(skip_on_failure=True)
    def _name_is_not_reserved(cls, values: dict) -> dict:
        if values["name"] == "last":
            raise ValueError(
                "name: runs/last is the file that names the run used last; choose another name"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _buckets_have_numbers(cls, values: dict) -> dict:
        features = values["features"]
        query = features.user_numeric + features.of_interaction.numeric
        numeric = query + features.item_numeric
        if values["model"].buckets and not numeric:
            raise ValueError(
                "model.buckets bins numeric features, but there are none; add some to "
                "features.user_numeric, item_numeric or context_numeric, or leave model.buckets out"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _vector_files_have_lengths(cls, values: dict) -> dict:
        features = values["features"]
        known = {**features.user_vectors, **features.item_vectors}
        if unknown := [name for name in values["ingest"].vectors if name not in known]:
            raise ValueError(
                f"ingest.vectors: {', '.join(unknown)}: give the length of a vector under "
                "features.item_vectors or features.user_vectors"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _no_part_is_empty(cls, values: dict) -> dict:
        split = values["split"]
        if split.method in ("random", "temporal") and min(split.ratios) == 0:
            part = ("train", "valid", "test")[split.ratios.index(0)]
            raise ValueError(
                f"split.ratios: {part} has a share of 0, but valid chooses the epoch and test "
                "measures the model; give every part a share, such as [0.8, 0.1, 0.1]"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _monitor_is_measured(cls, values: dict) -> dict:
        monitor, ks = values["training"].monitor, values["evaluation"].ks
        metric, _, k = monitor.partition("@")
        if metric not in METRICS or k not in map(str, ks):
            raise ValueError(
                f"training.monitor: {monitor!r} is not measured; choose one of "
                f"{', '.join(METRICS)}, with @ and one of evaluation.ks "
                f"({', '.join(map(str, ks))}), such as ndcg@{ks[0]}"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _towers_can_be_trained(cls, values: dict) -> dict:
        model, training, features = (values[name] for name in ("model", "training", "features"))
        history, has_context = features.history, bool(features.context_columns)
        if wrong := conflict(model, training, history):
            raise ValueError(wrong)
        if training.start and (
            wrong := unmet_requirements(model, history is not None, has_context)
        ):
            raise ValueError(f"training.start solves sums of embeddings only; it needs {wrong}")
        weights = values["positives"].has_weights
        if model.sequence and (
            wrong := unmet_features(model.sequence, history, has_context, has_weights=weights)
        ):
            raise ValueError(f"model.sequence reads the history alone; it needs {wrong}")
        if model.graph:
            sums = model.copy(update={"graph": None})
            if wrong := unmet_requirements(sums, history is not None, has_context):
                raise ValueError(f"model.graph reads ids and the history alone; it needs {wrong}")
        return values

    @root_validator(skip_on_failure=True)
    def _ranking_can_be_trained(cls, values: dict) -> dict:
        if values["ranking"].model is None:
            return values
        if values["split"].train_on_valid:
            raise ValueError(
                "ranking.model learns from the positives in valid, but split.train_on_valid trains "
                "the towers on them; set it to false, or remove ranking.model"
            )
        if values["features"].context_columns:
            raise ValueError(
                "ranking.model cannot be used with features of the context (features.context, "
                "context_numeric, time) yet; remove them, or ranking.model"
            )
        has_column, repeats = values["positives"].column is not None, values["split"].repeats
        if wrong := unmet_rows(values["ranking"], has_column, repeats):
            raise ValueError(wrong)
        return values

    @root_validator(skip_on_failure=True)
    def _self_supervised_has_features(cls, values: dict) -> dict:
        item = values["features"].sides[1]
        has_features = item.columns != [item.id] or item.vectors
        if values["model"].self_supervised and not has_features:
            raise ValueError(
                "model.self_supervised splits the item features into two views, but there is only "
                f"{item.id}; add one to features.item, item_multi_hot, item_text, item_numeric "
                "or item_vectors"
            )
        return values


def find_config(config: Path | str, folder: Path = CONFIGS) -> Path:
    """Return the path of a configuration given as a file or by name.

    Parameters
    ----------
    config : Path or str
        A file. If there is no such file, the name, without ".yaml", of one in `folder`.
    folder : Path
        The folder with the shipped files.

    Returns
    -------
    Path
        An existing file.

    Raises
    ------
    ConfigError
        If there is neither; the message lists the names in `folder`, the most similar first.
    """
    path = Path(config)
    if path.is_file():
        return path
    shipped = {each.stem: each for each in sorted(folder.glob("*.yaml"))}
    if (found := shipped.get(str(config))) is not None:
        return found
    stem = path.name.removesuffix(".yaml")
    names = sorted(shipped, key=lambda name: -SequenceMatcher(None, name, stem).ratio())
    raise ConfigError(
        f"{config}: no such configuration; give a YAML file, or the name of one in "
        f"{folder.relative_to(CONFIGS.parent)}/: {', '.join(names)}"
    )


def load_config(
    config: Path | str, overrides: tuple[str, ...] = (), data: Path | None = None
) -> Config:
    """Read a configuration.

    Parameters
    ----------
    config : Path or str
        A YAML file, or the name of one in configs/, see `find_config`.
    overrides : tuple of str
        "section.key=value", values in YAML.
    data : Path, optional
        Replaces ingest.path.

    Returns
    -------
    Config

    Raises
    ------
    ConfigError
        If the file, a key or a value is wrong; the message names them.
    """
    path = find_config(config)
    tree = read_yaml(path)
    if data is not None:
        tree["ingest"] = {**(tree.get("ingest") or {}), "path": str(data)}
    return parse_config(apply_overrides(tree, overrides), str(path))


def from_anywhere(config: Config, sections: Iterable[str] = ("ingest", "split")) -> Config:
    """Return `config` with absolute paths in `sections`, valid from any working directory.

    The files of `ingest.files` are relative to `ingest.path`; if that is not set, it becomes the
    working directory.
    """
    changed = {}
    for name in sections:
        section = getattr(config, name)
        if section.path is not None or (name == "ingest" and section.names_files):
            path = Path.cwd() / (section.path or "")
            changed[name] = section.copy(update={"path": path})
    return config.copy(update=changed)


def overridden_sections(overrides: tuple[str, ...]) -> set[str]:
    """Return the sections with paths that `overrides` change."""
    return {key.partition(".")[0] for key in read_overrides(overrides)} & {"ingest", "split"}


def apply_overrides(tree: dict[str, Any], overrides: tuple[str, ...]) -> dict[str, Any]:
    """Return a copy of `tree` with every "a.b=value" set; keys are checked by `parse_config`."""
    for key, value in read_overrides(overrides).items():
        tree = set_keys(tree, {key: value}, f"--set {key}")
    return tree


def read_overrides(overrides: tuple[str, ...]) -> dict[str, Any]:
    """Return the values of "a.b=value" by key; the last one counts if a key is repeated.

    Values are YAML. One string may hold several pairs, separated by spaces: "a.b=1 c.d=[64, 32]".
    """
    values: dict[str, Any] = {}
    for key, text in (pair for override in overrides for pair in _pairs(override)):
        values.pop(key, None)  # so that the order is that of the last occurrences
        try:
            values[key] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"--set {key}={text}: the value is not YAML: {error}") from None
    return values


NEXT_PAIR = re.compile(
    rf"\s+(?=[A-Za-z_]\w*(?:\.[\w-]+)+\s*=|(?:{'|'.join(Config.__fields__)})\s*=)"
)


def _pairs(override: str) -> Iterator[tuple[str, str]]:
    """Yield the key and the text of the value of each pair; lists and quotes are not split."""
    pair, *others = NEXT_PAIR.split(override.strip())
    pieces: list[str | None] = [*others, None]
    for piece in pieces:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {override}: expected section.key=value")
        if piece is not None and not _is_yaml(text):
            pair = f"{pair} {piece}"
            continue
        yield key.strip(), text
        pair = piece or ""


def _is_yaml(text: str) -> bool:
    try:
        yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return False
    return True


def set_keys(tree: dict[str, Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a copy of `tree` with every "a.b": value set; keys are checked by `parse_config`."""
    tree = {**tree}
    for key, value in values.items():
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            child = node.get(section)
            if child is not None and not isinstance(child, dict):
                raise ConfigError(f"{where}: {section} is a value, not a section")
            node[section] = dict(child or {})
            node = node[section]
        node[last] = value
    return tree


def parse_config(tree: dict[str, Any], where: str) -> Config:
    """Return `tree` as a `Config`.

    Raises ConfigError listing every unknown key and bad value with its path, after `where`.
    """
    return parse(Config, tree, where)


def parse(model: type[Model], tree: Any, where: str) -> Model:
    """Return `tree` as a `model`, as `parse_config` does."""
    problems = list(keys_not_text(tree))
    if not problems:
        try:
            parsed = model.parse_obj(tree)
            problems = list(converted(tree, parsed))
        except ValidationError as error:
            problems = [explained(model, tree, problem) for problem in error.errors()]
    if problems:
        lines = [f"  {problem}" for problem in problems]
        raise ConfigError("\n".join([f"{where}: wrong configuration", *lines]))
    return parsed


def to_yaml(config: Config) -> str:
    """Return the whole configuration, with defaults, as YAML that `load_config` reads."""
    return yaml.safe_dump(as_tree(config), sort_keys=False)


def as_tree(config: Config) -> dict[str, Any]:
    """Return the configuration as plain values, defaults included."""
    return json.loads(config.json())


def as_text(value: Any) -> str:
    """Return `value` as one line of YAML, as --set reads it."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
