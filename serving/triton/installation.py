"""Finds a Triton inference server that can run Python models with this interpreter."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path

from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton.scratch import Scratch

SYSTEM_TRITON = Path("/opt/tritonserver/bin/tritonserver")
WHEEL = "nvidia-pytriton"
FIRST_TO_RESTRICT_HTTP = (2, 40)


@dataclass(frozen=True)
class Triton:
    """A server binary, the pieces of its Python backend (none: the server has its own), and the
    folders its libraries lie in."""

    binary: Path
    version: str
    backend: list[Path] = field(default_factory=list)
    libraries: list[Path] = field(default_factory=list)

    @property
    def restricts_http(self) -> bool:
        """Whether it can keep protocols of its HTTP service to those who have a key."""
        if self.version.startswith(WHEEL):
            return True
        numbers = re.match(r"(\d+)\.(\d+)", self.version)
        return bool(numbers) and tuple(map(int, numbers.groups())) >= FIRST_TO_RESTRICT_HTTP

    def assemble_backend(self, scratch: Scratch) -> list[str]:
        """Link the Python backend together in `scratch`; return the server's arguments for it."""
        for piece in self.backend:
            scratch.link(f"backends/python/{piece.name}", piece)
        return [f"--backend-directory={scratch.path / 'backends'}"] if self.backend else []

    def environment(self, scratch: Scratch) -> dict[str, str]:
        """The environment the server and its models need; the libraries are linked in `scratch`."""
        inherited = os.environ.get("LD_LIBRARY_PATH")
        # The loader would split a path at a colon or a semicolon and expand a dollar sign.
        libraries = [
            str(scratch.link(f"libraries/{number}", folder))
            for number, folder in enumerate(self.libraries)
        ]
        libraries += [inherited] if inherited else []
        return {
            **os.environ,
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
            "PATH": os.pathsep.join(
                [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
            ),
            # The model's NumPy: BLAS threads would only compete with the server's own.
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            # glibc would keep what is left of large requests in an arena for each thread.
            "MALLOC_ARENA_MAX": "1",
            # gRPC reads a large request in pieces of 64 KiB with a header: mapped one by one, they
            # all go back. The JSON reader's pieces of 64 KiB are a few bytes smaller and stay:
            # mapping one for every request costs a fifth of the throughput.
            "MALLOC_MMAP_THRESHOLD_": "65584",
            "MALLOC_TRIM_THRESHOLD_": str(1 << 24),
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }


def find_triton() -> Triton:
    """The server of the container or the system, else the one in the wheel nvidia-pytriton.

    Raises
    ------
    ServingError
        saying what is missing and how to get it
    """
    found = shutil.which("tritonserver") or (SYSTEM_TRITON if SYSTEM_TRITON.exists() else None)
    if found:
        binary = Path(found).resolve()
        version = binary.parents[1] / "TRITON_VERSION"
        return Triton(binary, version.read_text().strip() if version.exists() else "unknown")
    return _wheel_triton()


def find_libpython() -> Path:
    """The shared library of this interpreter, which the Python backend links."""
    name = sysconfig.get_config_var("INSTSONAME") or ""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if ".so" not in name:  # a static build: a package of the system may have the library
        name = f"libpython{python}.so.1.0"
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    folders = [sysconfig.get_config_var("LIBDIR") or "", "/usr/lib", f"/usr/lib/{multiarch}"]
    for folder in folders:
        if folder and (Path(folder) / name).exists():
            return Path(folder) / name
    raise ServingError(
        f"Triton's Python backend needs {name}, and {sys.executable} came without it: "
        f"apt-get install libpython{python}, or use a Python of uv (uv python install {python})"
    )


def _wheel_triton() -> Triton:
    package = util.find_spec("pytriton")
    if package is None or package.origin is None:
        raise ServingError(
            f"no Triton server: neither tritonserver on PATH, nor {SYSTEM_TRITON}, nor the wheel "
            f"{WHEEL} (pip install --no-deps {WHEEL}==0.7.0)"
        )
    root = Path(package.origin).parent / "tritonserver"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / python / "triton_python_backend_stub"
    binary = root / "bin" / "tritonserver"
    for path in (binary, stub):
        if not path.exists():
            raise ServingError(f"{WHEEL} lacks {path}; install version 0.7.0 for Python 3.8-3.13")
    libraries = [find_libpython().parent, root.parents[1] / "nvidia_pytriton.libs"]
    backend = [*sorted((root / "backends" / "python").iterdir()), stub]
    return Triton(binary, f"{WHEEL} {metadata.version(WHEEL)}", backend, libraries)
