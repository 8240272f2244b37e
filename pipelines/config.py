"""One configuration: the component configs composed, read from YAML, overridden by key=value."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConstrainedStr, Extra, Field, ValidationError, root_validator
from pydantic.fields import SHAPE_SINGLETON

from twotower.models.config import MOST_COMPARED, TwoTowerConfig
from twotower.models.evaluation.config import EvaluationConfig
from twotower.models.evaluation.metrics import METRICS
from twotower.models.training.config import TrainingConfig, UpdateConfig, unmet_requirements
from twotower.pipelines.errors import ConfigError
from twotower.serving.config import ServingConfig
from twotower.workflows.features import FeaturesConfig, PositivesConfig
from twotower.workflows.ingest import IngestConfig
from twotower.workflows.split import SplitConfig

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
Model = TypeVar("Model", bound=BaseModel)


class Name(ConstrainedStr):
    """Of a folder or a part of file names."""

    max_length = 100

    @classmethod
    def validate(cls, value: str) -> str:
        """The value, where it can be the name of a file on every system."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            raise ValueError(
                f"{value!r} cannot be the name of a folder; use letters, digits, '.', '_' and "
                "'-', a letter or digit first"
            )
        return value


class Config(BaseModel, extra=Extra.forbid):
    """Everything a run depends on. Each section is documented where its code is."""

    name: Name = Field(..., description="of the run folder")
    ingest: IngestConfig = Field(..., description="workflows/ingest.py")
    positives: PositivesConfig = Field(PositivesConfig(), description="workflows/features.py")
    split: SplitConfig = Field(SplitConfig(), description="workflows/split.py")
    features: FeaturesConfig = Field(FeaturesConfig(), description="workflows/features.py")
    model: TwoTowerConfig = Field(TwoTowerConfig(), description="models/config.py")
    training: TrainingConfig = Field(TrainingConfig(), description="models/training/config.py")
    update: UpdateConfig = Field(UpdateConfig(), description="models/training/config.py")
    evaluation: EvaluationConfig = Field(
        EvaluationConfig(), description="models/evaluation/config.py"
    )
    serving: ServingConfig = Field(ServingConfig(), description="serving/config.py")
    show: list[str] = Field([], description="item columns printed beside a recommendation")

    @root_validator(skip_on_failure=True)
    def _a_name_of_its_own(cls, values: dict) -> dict:
        if values["name"] == "last":
            raise ValueError(
                "name: runs/last is the file that says which run was used last; choose another name"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _numbers_for_buckets(cls, values: dict) -> dict:
        numeric = values["features"].user_numeric + values["features"].item_numeric
        if values["model"].buckets and not numeric:
            raise ValueError(
                "model.buckets are of numbers: name some under features.user_numeric or "
                "item_numeric, or leave it out"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _parts_to_measure_on(cls, values: dict) -> dict:
        split = values["split"]
        if split.method in ("random", "temporal") and min(split.ratios) == 0:
            part = ("train", "valid", "test")[split.ratios.index(0)]
            raise ValueError(
                f"split.ratios: {part} has a share of 0, but valid chooses the epoch and test "
                "measures the model; give every part a share, such as [0.8, 0.1, 0.1]"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _a_monitor_that_is_measured(cls, values: dict) -> dict:
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
    def _a_history_that_attends_to_itself(cls, values: dict) -> dict:
        history = values["features"].history or 0
        if values["model"].history_pooling == "self_attention" and history > MOST_COMPARED:
            raise ValueError(
                "model.history_pooling: self_attention compares all items of a history with each "
                f"other; set features.history to at most {MOST_COMPARED}"
            )
        return values

    @root_validator(skip_on_failure=True)
    def _towers_that_can_be_solved(cls, values: dict) -> dict:
        if values["training"].start:
            has_history = values["features"].history is not None
            if wrong := unmet_requirements(values["model"], has_history):
                raise ValueError(f"training.start solves for sums of embeddings; it needs {wrong}")
        return values

    @root_validator(skip_on_failure=True)
    def _features_to_tell_items_apart(cls, values: dict) -> dict:
        item = values["features"].sides[1]
        if values["model"].self_supervised and item.columns == [item.id]:
            raise ValueError(
                "model.self_supervised hides item features from one another, but there is only "
                f"{item.id}; add one to features.item, item_multi_hot, item_text or item_numeric"
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
    return read_yaml(path)


def read_yaml(path: Path) -> dict[str, Any]:
    """What a YAML file of keys says. Raises ConfigError naming the file and the place in it."""
    try:
        tree = yaml.load(path.read_bytes(), _OnceAKey)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_place(error)}; mend it there") from None
    except (ValueError, RecursionError) as error:  # a date that does not exist, a list of lists ...
        raise ConfigError(f"{path}: not YAML: {error}; mend it there") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; it cannot be read") from None
    if tree is None:
        raise ConfigError(f"{path}: the file is empty; expected `key: value` lines, see configs/")
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found {type(tree).__name__}")
    return tree


class _OnceAKey(yaml.SafeLoader):
    """Refuses a key that occurs twice in a section, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"{key.value} occurs twice in this section",
                        problem_mark=key.start_mark,
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _place(error: yaml.YAMLError) -> str:
    """Where in the file YAML stopped, and why."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return f": not YAML: {error}"
    reason = getattr(error, "problem", None) or getattr(error, "context", None)
    return f", line {mark.line + 1}, column {mark.column + 1}: not YAML: {reason}"


def apply_overrides(tree: dict[str, Any], overrides: tuple[str, ...]) -> dict[str, Any]:
    """A copy of `tree` with every "a.b=value" set; whether a key exists is checked later."""
    for key, value in read_overrides(overrides).items():
        tree = set_keys(tree, {key: value}, f"--set {key}")
    return tree


def read_overrides(overrides: tuple[str, ...]) -> dict[str, Any]:
    """The values of "a.b=value", which are YAML, by key; of one key the last.

    One string may have several pairs, with spaces between them: "a.b=1 c.d=[64, 32]".
    """
    values = {}
    for key, text in (pair for override in overrides for pair in _pairs(override)):
        values.pop(key, None)  # the last one's place counts, too
        try:
            values[key] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"--set {key}={text}: the value is not YAML: {error}") from None
    return values


NEXT_PAIR = re.compile(
    rf"\s+(?=[A-Za-z_]\w*(?:\.[\w-]+)+\s*=|(?:{'|'.join(Config.__fields__)})\s*=)"
)


def _pairs(override: str) -> Iterator[tuple[str, str]]:
    """(key, text of the value) of each pair; none begins inside of a list or of quotes."""
    pair, *others = NEXT_PAIR.split(override.strip())
    for piece in [*others, None]:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {override}: expected section.key=value")
        if piece is not None and not _is_yaml(text):
            pair = f"{pair} {piece}"
            continue
        yield key.strip(), text
        pair = piece


def _is_yaml(text: str) -> bool:
    try:
        yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return False
    return True


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
    problems = list(_no_text(tree))
    if not problems:
        try:
            parsed = model.parse_obj(tree)
            problems = list(_misread(tree, parsed))
        except ValidationError as error:
            problems = [_worded(model, tree, problem) for problem in error.errors()]
    if problems:
        lines = [f"  {problem}" for problem in problems]
        raise ConfigError("\n".join([f"{where}: wrong configuration", *lines]))
    return parsed


def _worded(model: type[BaseModel], tree: Any, problem: dict[str, Any]) -> str:
    """The line on what pydantic found."""
    # What is wrong with a section as a whole pydantic says of its "__root__".
    path = tuple(part for part in problem["loc"] if part != "__root__")
    text = problem["msg"]
    if problem["type"] == "value_error.extra":
        text = f"no such key; known here: {', '.join(_fields(model, path[:-1]))}"
    elif problem["type"] == "type_error.dict":
        for part in path:
            tree = tree[part]
        text = f"expected a section with keys of its own, found {reprlib.repr(tree)}"
        if known := _fields(model, path):
            text += f"; known here: {', '.join(known)}"
    elif problem["type"] == "type_error.none.not_allowed":
        text = "empty; give it a value, or leave it out"
    return f"{'.'.join(map(str, path))}: {text}" if path else text


def _fields(model: type[BaseModel], path: tuple) -> list[str]:
    parts = iter(path)
    for part in parts:
        field = model.__fields__[part]
        model = field.type_
        if field.shape != SHAPE_SINGLETON:
            next(parts, None)  # its place in the list, its key in the mapping
    return sorted(getattr(model, "__fields__", ()))


def _no_text(tree: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """A line for each key that YAML does not read as text."""
    if isinstance(tree, list):
        for place, value in enumerate(tree):
            yield from _no_text(value, (*path, str(place)))
    if not isinstance(tree, dict):
        return
    for key, value in tree.items():
        if isinstance(key, str):
            yield from _no_text(value, (*path, key))
        else:
            section = f"{'.'.join(path)}: " if path else ""
            yield f"{section}the key {key!r} is no text to YAML; put it in quotes: '{key}'"


def _misread(tree: Any, parsed: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """A line for each value that pydantic took for something else: 2.9 for 2, no for "False"."""
    if isinstance(parsed, BaseModel):
        parsed = dict(parsed)
    if isinstance(tree, dict) and isinstance(parsed, dict):
        for key in tree.keys() & parsed.keys():
            yield from _misread(tree[key], parsed[key], (*path, key))
    elif isinstance(tree, list | tuple) and isinstance(parsed, list | tuple):
        for place, (value, found) in enumerate(zip(tree, parsed, strict=False)):
            yield from _misread(value, found, (*path, str(place)))
    elif type(parsed) is int and (
        isinstance(tree, bool) or (isinstance(tree, float) and tree != parsed)
    ):
        yield f"{'.'.join(path)}: {tree!r} is no whole number"
    elif isinstance(parsed, str) and isinstance(tree, bool | float):
        yield f"{'.'.join(path)}: {tree!r} is no text to YAML; put it in quotes"


def to_yaml(config: Config) -> str:
    """The whole configuration, defaults included, as YAML that `load_config` reads."""
    import json

    return yaml.safe_dump(json.loads(config.json()), sort_keys=False)
