"""What needs no TensorFlow, Merlin or pandas does not import them."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        *("client", "config", "doctor", "files", "repository"),
        *("runtime.index", "triton.control", "triton.health", "triton.server"),
    ],
)
def test_nothing_heavy_is_imported(module):
    script = (
        f"import sys, twotower.serving.{module}; "
        "print([m for m in ('tensorflow', 'merlin', 'nvtabular', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
