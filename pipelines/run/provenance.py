"""What the project and its packages were when a run was made."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "merlin-models",
    "nvtabular",
    "merlin-systems",
    "merlin-core",
    "tensorflow-cpu",
    "tensorflow",
    "numpy",
    "pandas",
    "faiss-cpu",
    "onnxruntime",
    "tf2onnx",
    "nvidia-pytriton",
    "tritonclient",
)


def versions() -> dict[str, str]:
    """The installed versions of Python, the platform and the packages that affect results."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def git_commit() -> str | None:
    """The project's commit, with "+changes" if files differ from it; None without git."""
    project = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(project), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results")
        return commit + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
