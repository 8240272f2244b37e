"""TensorFlow and Merlin, imported once for all steps of a process."""

from __future__ import annotations

import gc
import sys


def are_loaded() -> bool:
    """Whether `load_libraries` has been called: what could be checked before has been."""
    return "merlin.models.tf" in sys.modules


def load_libraries() -> None:
    """Import TensorFlow and Merlin; later imports of them cost nothing.

    Half the time of these imports, and a second when the process ends, went into the garbage
    collector, which looks through everything imported again and again: it stands still meanwhile
    and leaves alone from then on what was imported.
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
