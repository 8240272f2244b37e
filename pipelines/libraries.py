"""Import TensorFlow and Merlin once per process."""

from __future__ import annotations

import gc
import sys


def are_loaded() -> bool:
    """Whether `load_libraries` has been called."""
    return "merlin.models.tf" in sys.modules


def load_libraries() -> None:
    """Import TensorFlow and Merlin; later imports of them cost nothing.

    The garbage collector is off meanwhile, and ignores the imported objects afterwards. Otherwise
    it takes half of the import time, and a second when the process ends.
    """
    if are_loaded():
        return
    gc.disable()
    try:
        import merlin.models.tf  # noqa: F401
        import nvtabular  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()
