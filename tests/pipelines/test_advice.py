"""Commands, options, make targets and settings that messages mention exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from twotower.pipelines.cli import main
from twotower.pipelines.config import Config

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("workflows", "models", "serving", "pipelines")
VERB = re.compile(r"\btwotower ([a-z]\w*(?:-\w+)*)([^`]*)")
TARGET = re.compile(r"\bmake ([a-z-]+)(?= [A-Z]+=| \||`|,|$|\))")
KEY = re.compile(rf"\b({'|'.join(Config.__fields__)})\.([a-z_]\w*(?:\.[a-z_]\w*)*)\b(?![(./*-])")
FILES = {"py", "yaml", "json", "html", "log", "parquet", "runtime"}


def texts() -> Iterator[tuple[str, str]]:
    """Yield file:line and text of every string in the packages that is not a docstring."""
    for path in sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text())
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Expr)]
        docstrings = {id(node.value) for node in nodes if isinstance(node.value, ast.Constant)}
        joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
        parts = {id(part) for node in joined for part in node.values}
        for node in ast.walk(tree):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                # A placeholder becomes a gap, so that no pattern matches across it.
                pieces = [p.value if isinstance(p, ast.Constant) else "{}" for p in node.values]
                yield where, "".join(pieces)
            elif id(node) in docstrings | parts:
                continue
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield where, node.value


TEXTS = list(texts())
COMMANDS = sorted({(verb, rest) for _, text in TEXTS for verb, rest in VERB.findall(text)})
KEYS = sorted({".".join(found) for _, text in TEXTS for found in KEY.findall(text)})
TARGETS = sorted({target for _, text in TEXTS for target in TARGET.findall(text)})


def test_the_advice_is_found():
    assert {verb for verb, _ in COMMANDS} >= {"run", "ingest", "export", "publish", "rollback"}
    assert {*KEYS} >= {"training.batch_size", "split.ratios", "serving.max_k", "features.history"}
    assert {*TARGETS} >= {"env", "serve", "lab", "docker-build"}


@pytest.mark.parametrize(("verb", "rest"), COMMANDS)
def test_a_command_that_a_message_names_exists_with_its_options(verb, rest):
    known = {option for parameter in main.commands[verb].params for option in parameter.opts}
    named = re.findall(r"(?<!\S)--?[a-z]+(?:-[a-z]+)*", rest)
    assert {*named} <= known


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_that_a_message_names_exists(target):
    makefiles = (ROOT / "Makefile").read_text() + (ROOT / "docker" / "docker.mk").read_text()
    assert re.search(rf"^{target}:", makefiles, re.MULTILINE)


@pytest.mark.parametrize("key", [key for key in KEYS if key.split(".")[-1] not in FILES])
def test_a_setting_that_a_message_names_exists(key):
    model: type[BaseModel] = Config
    for part in key.split("."):
        assert part in model.__fields__, f"{model.__name__} has no {part}"
        model = model.__fields__[part].type_
