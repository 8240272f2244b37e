"""Reads YAML files of settings, with errors that name the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from twotower.pipelines.errors import ConfigError


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of `key: value` lines.

    Raises ConfigError naming the file and the line.
    """
    try:
        tree = yaml.load(path.read_bytes(), _UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_place(error)}; correct it there") from None
    except (ValueError, RecursionError) as error:  # a date that does not exist, a list of lists ...
        raise ConfigError(f"{path}: not YAML: {error}; correct it there") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; it cannot be read") from None
    if tree is None:
        raise ConfigError(f"{path}: the file is empty; expected `key: value` lines, see configs/")
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found {type(tree).__name__}")
    return tree


class _UniqueKeyLoader(yaml.SafeLoader):
    """Rejects a key that occurs twice in a section; YAML alone would use the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
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
    """Return the line and column at which YAML stopped, and the reason."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return f": not YAML: {error}"
    reason = getattr(error, "problem", None) or getattr(error, "context", None)
    return f", line {mark.line + 1}, column {mark.column + 1}: not YAML: {reason}"
