"""The rules on how the code is laid out: which package imports which, no circles, small modules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("models", "pipelines", "serving", "workflows")
GROUND_PACKAGES = ("models", "serving", "workflows")
MAX_MODULES = 12
"""Modules in one folder, without __init__.py."""
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 70

# What broke a rule when the rules were written. Remove an entry once it is fixed; add none.
LONG_MODULES: set[str] = set()
LONG_FUNCTIONS: set[str] = set()
FULL_FOLDERS: set[str] = set()
CIRCULAR_MODULES: set[str] = set()


def _modules() -> dict[str, Path]:
    """The path of each module of the four packages by its name."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {_module_name(path): path for path in paths}


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(["twotower", *(part for part in parts if part != "__init__")])


def _imports(name: str, path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules that a module imports anywhere, in functions and for type checking as well."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *filter(None, [node.module])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                found.add(submodule if submodule in modules else base)
    return {module for module in found if module in modules} - {name}


MODULES = _modules()
IMPORTS = {name: _imports(name, path, MODULES) for name, path in MODULES.items()}


def _reachable(start: str) -> set[str]:
    """The modules that importing `start` imports, directly or not."""
    found: set[str] = set()
    left = [start]
    while left:
        new = IMPORTS[left.pop()] - found
        found |= new
        left += new
    return found


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
    """The name and number of lines of each function below `node`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}.{child.name}"
            if not isinstance(child, ast.ClassDef):
                assert child.end_lineno is not None
                yield name, child.end_lineno - child.lineno + 1
            yield from _functions(child, name)
        else:
            yield from _functions(child, prefix)


def test_the_imports_are_found():
    """The other tests would pass on an empty graph."""
    commit = "twotower.pipelines.run.commit"
    assert {"twotower.pipelines.lock", "twotower.pipelines.run.disk"} <= IMPORTS[commit]
    assert "twotower.serving.runtime.errors" in IMPORTS["twotower.serving.runtime.manifest"]
    in_a_function = "twotower.serving.triton.health"
    assert in_a_function in IMPORTS["twotower.pipelines.doctor"]
    assert "twotower.serving.files" in _reachable(commit)


@pytest.mark.parametrize("package", GROUND_PACKAGES)
def test_a_ground_package_imports_only_itself(package):
    own = f"twotower.{package}"
    foreign = {
        f"{name} imports {imported}"
        for name, all_imported in IMPORTS.items()
        for imported in all_imported
        if f"{name}.".startswith(f"{own}.") and not f"{imported}.".startswith(f"{own}.")
    }
    assert not foreign


def test_no_module_imports_itself_through_others():
    assert not {name for name in MODULES if name in _reachable(name)} - CIRCULAR_MODULES


def test_no_folder_has_too_many_modules():
    paths = [path for path in MODULES.values() if path.name != "__init__.py"]
    folders = [str(path.parent.relative_to(ROOT)) for path in paths]
    assert not {each for each in folders if folders.count(each) > MAX_MODULES} - FULL_FOLDERS


def test_no_module_is_too_long():
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert not {name for name, count in lines.items() if count > MAX_MODULE_LINES} - LONG_MODULES


def test_no_function_is_too_long():
    functions = [
        each
        for name, path in MODULES.items()
        for each in _functions(ast.parse(path.read_text()), name)
    ]
    assert not {name for name, lines in functions if lines > MAX_FUNCTION_LINES} - LONG_FUNCTIONS
