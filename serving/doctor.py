"""Checks whether everything that serving needs is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata

from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton.installation import find_libpython, find_triton


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes
    ----------
    name : str
        What was checked.
    ok : bool
        False if something that serving needs is missing.
    value : str
        What was found.
    advice : str
        What to do about it; empty if nothing.
    """

    name: str
    ok: bool
    value: str
    advice: str = ""


def check_serving() -> list[Check]:
    """Check the server, the libraries and the GPU."""
    return [
        _check("Triton", _triton),
        _check("libpython for Triton's Python backend", lambda: str(find_libpython())),
        _module("faiss", "make env, or pip install faiss-cpu"),
        _module("onnxruntime", "make env, or pip install onnxruntime"),
        _module("tritonclient", "make env, or pip install tritonclient[all]"),
        _gpu_faiss(),
    ]


def _triton() -> str:
    triton = find_triton()
    return f"{triton.version} at {triton.binary}"


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except ServingError as error:
        return Check(name, False, "missing", str(error))


def _module(name: str, advice: str) -> Check:
    try:
        module = import_module(name)
    except ImportError as error:
        return Check(name, False, "missing", f"{advice} ({error})")
    version = getattr(module, "__version__", None) or metadata.version(name)
    return Check(name, True, version)


def _gpu_faiss() -> Check:
    try:
        import faiss
    except ImportError:
        return Check("faiss on GPU", True, "no", "the CPU is used")
    gpus = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
    advice = "" if gpus else "the CPU is used; a faiss build with GPU comes with the container"
    return Check("faiss on GPU", True, f"{gpus} GPUs" if gpus else "no", advice)
