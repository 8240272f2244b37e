"""One configuration: the component configs composed, read from YAML, overridden by key=value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, Extra, Field, ValidationError, root_validator
from pydantic.fields import SHAPE_SINGLETON

from models.config import TwoTowerConfig
from models.evaluation import EvaluationConfig
from models.growth import UpdateConfig
from models.training import TrainingConfig
from pipelines.errors import ConfigError
from serving.config import ServingConfig
from workflows.features import FeaturesConfig, PositivesConfig
from workflows.ingest import IngestConfig
from workflows.split import SplitConfig

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
Model = TypeVar("Model", bound=BaseModel)


class Config(BaseModel, extra=Extra.forbid):
    """Everything a run depends on. Each section is documented where its code is."""

    name: str = Field(..., regex=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="of the run folder")
    ingest: IngestConfig = Field(..., description="workflows/ingest.py")
    positives: PositivesConfig = Field(PositivesConfig(), description="workflows/features.py")
    split: SplitConfig = Field(SplitConfig(), description="workflows/split.py")
    features: FeaturesConfig = Field(FeaturesConfig(), description="workflows/features.py")
    model: TwoTowerConfig = Field(TwoTowerConfig(), description="models/config.py")
    training: TrainingConfig = Field(TrainingConfig(), description="models/training.py")
    update: UpdateConfig = Field(UpdateConfig(), description="models/growth.py")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="models/evaluation.py")
    serving: ServingConfig = Field(ServingConfig(), description="serving/config.py")
    show: list[str] = Field([], description="item columns printed beside a recommendation")

    @root_validator(skip_on_failure=True)
    def _numbers_for_buckets(cls, values: dict) -> dict:
        numeric = values["features"].user_numeric + values["features"].item_numeric
        if values["model"].buckets and not numeric:
            raise ValueError(
                "model.buckets are of numbers: name some under features.user_numeric or "
                "item_numeric, or leave it out"
            )
        return values


def load_config(path: Path, overrides: tuple[str, ...] = (), data: Path | None = None) -> Config:
    """The configuration in `path`, its ingest.path replaced by `data` where there is one.

    `overrides` are "section.key=value", values in YAML.

    Raises ConfigError naming the file and the key.
    """
    tree = read_tree(path, CONFIGS)
    if data is not None:
        tree["ingest"] = {**(tree.get("ingest") or {}), "path": str(data)}
    return parse_config(apply_overrides(tree, overrides), str(path))


def from_anywhere(config: Config, sections: Iterable[str] = ("ingest", "split")) -> Config:
    """`config` with the paths in `sections` absolute: they start from the working directory.

    The files of `ingest.parquet` start from `ingest.path`, which becomes the working directory
    when there is none.
    """
    changed = {}
    for name in sections:
        section = getattr(config, name)
        if section.path is not None or (name == "ingest" and section.source == "parquet"):
            path = Path.cwd() / (section.path or "")
            changed[name] = section.copy(update={"path": path})
    return config.copy(update=changed)


def overridden_sections(overrides: tuple[str, ...]) -> set[str]:
    """The sections with paths in which `overrides` change something."""
    return {key.partition(".")[0] for key in read_overrides(overrides)} & {"ingest", "split"}


def read_tree(path: Path, folder: Path) -> dict[str, Any]:
    """What the YAML file `path` says; `folder` has those that there are."""
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ConfigError(f"{path}: no such configuration; {folder.name}/ has {known}")
    try:
        tree = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found {type(tree).__name__}")
    return tree


def apply_overrides(tree: dict[str, Any], overrides: tuple[str, ...]) -> dict[str, Any]:
    """A copy of `tree` with every "a.b=value" set; whether a key exists is checked later."""
    for key, value in read_overrides(overrides).items():
        tree = set_keys(tree, {key: value}, f"--set {key}")
    return tree


def read_overrides(overrides: tuple[str, ...]) -> dict[str, Any]:
    """The values of "a.b=value", which are YAML, by key; of one key the last."""
    values = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {override}: expected section.key=value")
        try:
            values.pop(key.strip(), None)  # the last one's place counts, too
            values[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override}: the value is not YAML: {error}") from None
    return values


def set_keys(tree: dict[str, Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A copy of `tree` with every "a.b": value set; whether a key exists is checked later."""
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
    """`tree` checked; ConfigError lists every unknown key and bad value with its path."""
    return parse(Config, tree, where)


def parse(model: type[Model], tree: Any, where: str) -> Model:
    """`tree` checked as a `model`; see `parse_config`."""
    try:
        return model.parse_obj(tree)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            # What is wrong with a section as a whole pydantic says of its "__root__".
            key = ".".join(str(part) for part in problem["loc"] if part != "__root__")
            known = ""
            if problem["type"] == "value_error.extra":
                known = f"; known here: {', '.join(_fields(model, problem['loc'][:-1]))}"
                problem["msg"] = "no such key"
            lines.append(f"  {key + ': ' if key else ''}{problem['msg']}{known}")
        raise ConfigError("\n".join([f"{where}: wrong configuration", *lines])) from None


def _fields(model: type[BaseModel], path: tuple) -> list[str]:
    parts = iter(path)
    for part in parts:
        field = model.__fields__[part]
        model = field.type_
        if field.shape != SHAPE_SINGLETON:
            next(parts)  # its place in the list, its key in the mapping
    return sorted(model.__fields__)


def to_yaml(config: Config) -> str:
    """The whole configuration, defaults included, as YAML that `load_config` reads."""
    import json

    return yaml.safe_dump(json.loads(config.json()), sort_keys=False)
