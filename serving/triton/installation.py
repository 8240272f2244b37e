"""Finds a Triton inference server that runs Python models with this interpreter."""

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
    """An installed Triton.

    Attributes
    ----------
    binary : Path
        The server.
    version : str
        Its version, or the wheel it comes from.
    backend : list of Path
        Files of its Python backend; empty if the server finds its own.
    libraries : list of Path
        Folders with its libraries.
    """

    binary: Path
    version: str
    backend: list[Path] = field(default_factory=list)
    libraries: list[Path] = field(default_factory=list)

    @property
    def restricts_http(self) -> bool:
        """Whether it can restrict protocols of its HTTP service to clients with a key."""
        if self.version.startswith(WHEEL):
            return True
        numbers = re.match(r"(\d+)\.(\d+)", self.version)
        return numbers is not None and tuple(map(int, numbers.groups())) >= FIRST_TO_RESTRICT_HTTP

    def assemble_backend(self, scratch: Scratch) -> list[str]:
        """Link the Python backend into `scratch`; return the server's arguments for it."""
        for piece in self.backend:
            scratch.link(f"backends/python/{piece.name}", piece)
        return [f"--backend-directory={scratch.path / 'backends'}"] if self.backend else []

    def environment(self, scratch: Scratch) -> dict[str, str]:
        """Return the environment of the server and its models; link libraries into `scratch`."""
        inherited = os.environ.get("LD_LIBRARY_PATH")
        # By links, because the loader splits paths at colons and semicolons and expands "$".
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
            # For the model's NumPy: BLAS threads would compete with the server's threads.
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            # Otherwise glibc keeps freed memory of large requests in an arena per thread.
            "MALLOC_ARENA_MAX": "1",
            # gRPC reads a large request in pieces of 64 KiB plus a header. They are above the
            # threshold, so each is mapped and goes back to the system. The JSON reader's pieces of
            # 64 KiB are a few bytes smaller and below it: mapping one per request costs a fifth of
            # the throughput.
            "MALLOC_MMAP_THRESHOLD_": "65584",
            "MALLOC_TRIM_THRESHOLD_": str(1 << 24),
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }


def find_triton() -> Triton:
    """Find the server of the container or the system, else that of the wheel nvidia-pytriton.

    Raises
    ------
    ServingError
        If there is none; the message says how to install it.
    """
    found = shutil.which("tritonserver") or (SYSTEM_TRITON if SYSTEM_TRITON.exists() else None)
    if found:
        binary = Path(found).resolve()
        version = binary.parents[1] / "TRITON_VERSION"
        return Triton(binary, version.read_text().strip() if version.exists() else "unknown")
    return _wheel_triton()


def find_libpython() -> Path:
    """Find the shared library of this interpreter, which the Python backend needs."""
    name = sysconfig.get_config_var("INSTSONAME") or ""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if ".so" not in name:  # a static build; a system package may have the library
        name = f"libpython{python}.so.1.0"
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    folders = [sysconfig.get_config_var("LIBDIR") or "", "/usr/lib", f"/usr/lib/{multiarch}"]
    for folder in folders:
        if folder and (Path(folder) / name).exists():
            return Path(folder) / name
    raise ServingError(
        f"Triton's Python backend needs {name}, and {sys.executable} does not include it: "
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
            raise ServingError(
                f"{WHEEL} does not contain {path}; install version 0.7.0 for Python 3.8-3.13"
            )
    libraries = [find_libpython().parent, root.parents[1] / "nvidia_pytriton.libs"]
    backend = [*sorted((root / "backends" / "python").iterdir()), stub]
    return Triton(binary, f"{WHEEL} {metadata.version(WHEEL)}", backend, libraries)
