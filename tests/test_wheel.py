"""The wheel: what it puts where, what it asks for, and that it runs away from this repository."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("configs", "models", "pipelines", "serving", "workflows")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_of_the_rooms_is_a_package_of_the_wheel():
    folders = {
        ".".join(["twotower", *file.parent.relative_to(ROOT).parts])
        for room in ROOMS
        for file in [*(ROOT / room).rglob("*.py"), *(ROOT / room).rglob("*.yaml")]
    }
    assert {*PROJECT["tool"]["setuptools"]["packages"]} == {"twotower", *folders}


@pytest.mark.parametrize("wanted", PROJECT["project"]["dependencies"])
def test_the_lock_satisfies_what_the_wheel_asks_for(wanted):
    requirement = Requirement(wanted)
    assert requirement.specifier.contains(metadata.version(requirement.name)), wanted


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"  # because building writes beside the sources
    copy.mkdir()
    for name in (*ROOMS, "twotower"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    script = (
        "import os, sys; from setuptools import build_meta; "
        "os.chdir(sys.argv[1]); build_meta.build_wheel(sys.argv[2])"
    )
    command = [sys.executable, "-c", script, str(copy), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_only_twotower_is_installed(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"twotower", f"{wheel.name.partition('-py3')[0]}.dist-info"}
    assert {"twotower/py.typed", "twotower/configs/ml-1m.yaml"} <= set(names)
    assert "twotower/pipelines/experiments/report.html.jinja" in names
    assert not [name for name in names if re.search(r"(^|/)tests?[/_.]|\.ipynb$", name)]


def test_the_main_job_runs_from_the_wheel_in_an_unrelated_folder(wheel, tmp_path):
    """In an environment of its own that shares nothing but the libraries."""
    home = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    (site,) = home.glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    # A line of a .pth file: the editable install in the folder it names is not followed.
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    python = str(home / "bin" / "python")
    where = "import twotower.models.config as m, twotower; print(twotower.__file__, m.__file__)"
    found = subprocess.run(
        [python, "-c", where], cwd=elsewhere, capture_output=True, text=True, check=True
    )
    assert all(path.startswith(str(site)) for path in found.stdout.split())
    strangers = subprocess.run([python, "-c", "import models"], cwd=elsewhere, capture_output=True)
    assert b"No module named 'models'" in strangers.stderr
    job = [python, "-m", "twotower.pipelines.cli", "run"]
    options = ["--config", str(site / "twotower" / "configs" / "synthetic.yaml")]
    size = {"users": 200, "items": 120, "interactions": 5000}
    changes = [f"ingest.synthetic.{name}={value}" for name, value in size.items()]
    small = [part for change in [*changes, "training.epochs=1"] for part in ("--set", change)]
    done = subprocess.run(
        [*job, *options, *small], cwd=elsewhere, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (elsewhere / "runs" / "synthetic" / "triton" / "retrieval" / "1").is_dir()
    assert "done in" in done.stdout
