"""make passes values on as they were typed, with spaces, quotes and dollar signs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRINTS = f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"
OF_MAKE = {"MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS", "DATA", "CONFIG", "SET", "DOCS"}
OF_MAKE |= {"RUN_FOLDER", "K", "PARTS", "VERSION", "USER_ID", "VERSION_ID"}
ODD = """/data/my $HOME `films` "and" 'more' (1) #2; & ü"""


@pytest.fixture
def project(tmp_path) -> Path:
    """Copy the Makefile into a folder where `twotower` and Python print their arguments."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (
        "requirements/make_env.sh",
        "requirements/a.txt",
        "pyproject.toml",
        "twotower/a.py",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "docker").mkdir()
    shutil.copy(ROOT / "docker" / "docker.mk", tmp_path / "docker")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("twotower", "python", "ruff", "mypy"):
        script = tmp_path / ".venv" / "bin" / name
        script.write_text(PRINTS)
        script.chmod(0o755)
    (tmp_path / ".venv" / ".ready").write_text("")
    return tmp_path


def arguments(project: Path, target: str, **variables: str) -> list[str]:
    """Return the arguments of the last command of `make target`."""
    typed = [f"{name}={value}" for name, value in variables.items()]
    # When `make test DATA=...` runs the tests, its own variables would reach the inner make.
    environment = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
    done = subprocess.run(
        ["make", "--no-print-directory", target, *typed],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("target", "variables", "expected"),
    [
        ("run", {"DATA": ODD}, ["run", "--data", ODD]),
        ("run", {"CONFIG": ODD}, ["run", "--config", ODD]),
        ("run", {"RECIPE": ODD}, ["run", "--recipe", ODD]),
        ("run", {}, ["run"]),
        (
            "run",
            {"SET": "model.hidden=[64, 32] training.epochs=3"},
            ["run", "--set", "model.hidden=[64, 32] training.epochs=3"],
        ),
        ("update", {"DATA": ODD, "RUN_FOLDER": ODD}, ["update", "--data", ODD, "--run", ODD]),
        (
            "compare",
            {"CONFIG": ODD, "DATA": ODD, "DOCS": ODD, "SET": "show=['a b']"},
            ["compare", "--config", ODD, "--data", ODD, "--docs", ODD, "--set", "show=['a b']"],
        ),
        ("tune", {"CONFIG": ODD, "DATA": ODD}, ["tune", "--config", ODD, "--data", ODD]),
        ("query", {"USER": "42", "K": "3"}, ["query", "--user", "42", "-k", "3"]),
        (
            "query",
            {"USER": "7 1;ls $HOME *", "K": ODD},
            ["query", "--user", "7", "--user", "1;ls", "--user", "$HOME", "--user", "*", "-k", ODD],
        ),
        ("query", {"USER": "42"}, ["query", "--user", "42", "-k", "10"]),
        ("publish", {"VERSION": ODD}, ["publish", "--version", ODD]),
        ("publish", {}, ["publish"]),
        (
            "bench-faults",
            {"PARTS": "a $x;ls"},
            ["-m", "benchmarks.faults", "--part", "a", "--part", "$x;ls"],
        ),
        ("bench-faults", {}, ["-m", "benchmarks.faults"]),
        ("test", {"DATA": ODD}, None),
        ("bench-main", {"DATA": ODD}, ["-m", "benchmarks.main_job", "--data", ODD]),
        ("soak", {"RUN_FOLDER": ODD}, ["-m", "benchmarks.serving", "--run", ODD, "--part", "soak"]),
    ],
)
def test_a_target_passes_values_as_they_were_typed(project, target, variables, expected):
    found = arguments(project, target, **variables)
    if expected is None:
        assert found[-1] == f"--data={ODD}"
    else:
        assert found == expected
