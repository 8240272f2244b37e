"""One configuration: the component configs composed, read from YAML, overridden by key=value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Extra, Field, ValidationError

from models.evaluation import EvaluationConfig
from models.growth import UpdateConfig
from models.training import TrainingConfig
from models.two_tower import TwoTowerConfig
from pipelines.errors import ConfigError
from serving.config import ServingConfig
from workflows.features import FeaturesConfig, PositivesConfig
from workflows.ingest import IngestConfig
from workflows.split import SplitConfig

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


class Config(BaseModel, extra=Extra.forbid):
    """Everything a run depends on. Each section is documented where its code is."""

    name: str = Field(..., regex=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="of the run folder")
    ingest: IngestConfig = Field(..., description="workflows/ingest.py")
    positives: PositivesConfig = Field(PositivesConfig(), description="workflows/features.py")
    split: SplitConfig = Field(SplitConfig(), description="workflows/split.py")
    features: FeaturesConfig = Field(FeaturesConfig(), description="workflows/features.py")
    model: TwoTowerConfig = Field(TwoTowerConfig(), description="models/two_tower.py")
    training: TrainingConfig = Field(TrainingConfig(), description="models/training.py")
    update: UpdateConfig = Field(UpdateConfig(), description="models/growth.py")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="models/evaluation.py")
    serving: ServingConfig = Field(ServingConfig(), description="serving/config.py")
    show: list[str] = Field([], description="item columns printed beside a recommendation")


def load_config(path: Path, overrides: tuple[str, ...] = (), data: Path | None = None) -> Config:
    """The configuration in `path`, its ingest.path replaced by `data` where there is one.

    `overrides` are "section.key=value", values in YAML.

    Raises ConfigError naming the file and the key.
    """
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
        raise ConfigError(f"{path}: no such configuration; configs/ has {known}")
    try:
        tree = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found {type(tree).__name__}")
    if data is not None:
        tree["ingest"] = {**(tree.get("ingest") or {}), "path": str(data)}
    return parse_config(apply_overrides(tree, overrides), str(path))


def apply_overrides(tree: dict[str, Any], overrides: tuple[str, ...]) -> dict[str, Any]:
    """A copy of `tree` with every "a.b=value" set; whether a key exists is checked later."""
    tree = {**tree}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {override}: expected section.key=value")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override}: the value is not YAML: {error}") from None
        *sections, last = key.strip().split(".")
        node = tree
        for section in sections:
            child = node.get(section)
            if child is not None and not isinstance(child, dict):
                raise ConfigError(f"--set {override}: {section} is a value, not a section")
            node[section] = dict(child or {})
            node = node[section]
        node[last] = parsed
    return tree


def parse_config(tree: dict[str, Any], where: str) -> Config:
    """`tree` checked; ConfigError lists every unknown key and bad value with its path."""
    try:
        return Config.parse_obj(tree)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"])
            known = ""
            if problem["type"] == "value_error.extra":
                known = f"; known here: {', '.join(_fields(problem['loc'][:-1]))}"
                problem["msg"] = "no such key"
            lines.append(f"  {key}: {problem['msg']}{known}")
        raise ConfigError("\n".join([f"{where}: wrong configuration", *lines])) from None


def _fields(path: tuple) -> list[str]:
    model = Config
    for part in path:
        model = model.__fields__[part].type_
    return sorted(model.__fields__)


def to_yaml(config: Config) -> str:
    """The whole configuration, defaults included, as YAML that `load_config` reads."""
    import json

    return yaml.safe_dump(json.loads(config.json()), sort_keys=False)
