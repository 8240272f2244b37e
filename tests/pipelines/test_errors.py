"""Every error class of the project derives from the base class of its package."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from twotower.pipelines.errors import OURS, is_ours

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("workflows", "models", "serving", "pipelines")
CONTRACT = Path("serving/runtime/contract.py")


def error_classes() -> list[tuple[str, str]]:
    """The module and name of every class in the packages whose name ends in "Error"."""
    return [
        ("twotower." + ".".join(path.relative_to(ROOT).with_suffix("").parts), node.name)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error")
    ]


def test_the_error_of_a_request_is_found():
    assert ("twotower.serving.runtime.errors", "RequestError") in error_classes()


@pytest.mark.parametrize(("module", "name"), error_classes())
def test_an_error_class_derives_from_its_packages_base(module, name):
    error = getattr(importlib.import_module(module), name)
    (base,) = [each for each in OURS if issubclass(error, each)]
    assert base.__module__.split(".")[1] == module.split(".")[1]
    assert is_ours(error.__new__(error))


def test_an_error_of_a_library_is_not_ours():
    assert not any(is_ours(error) for error in (ValueError("x"), KeyError("x"), OSError("x")))
