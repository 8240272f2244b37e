"""The client that other services import."""

from __future__ import annotations

import subprocess
import sys
from ast import literal_eval

SCRIPT = """
import sys
before = set(sys.modules)
from twotower.client import AsyncRetrievalClient, RetrievalClient
for protocol in ("http", "grpc"):
    RetrievalClient("127.0.0.1:1", protocol).close()
    AsyncRetrievalClient("127.0.0.1:1", protocol)
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
heavy = {"pandas", "click", "tensorflow", "merlin", "nvtabular", "pydantic", "faiss", "onnxruntime"}
print(sorted(loaded & heavy))
print(sorted(name for name in sys.modules if name.startswith("twotower.")))
"""
OWN = {
    "twotower.client",
    "twotower.serving",
    "twotower.serving.client",
    *(f"twotower.serving.client.{name}" for name in ("asynchronous", "blocking", "errors")),
    *(f"twotower.serving.client.{name}" for name in ("requests", "values")),
    "twotower.serving.runtime",
    *(f"twotower.serving.runtime.{name}" for name in ("arrays", "contract", "errors", "tensors")),
    *(f"twotower.serving.runtime.{name}" for name in ("filters", "filters.caps")),
    "twotower.serving.runtime.filters.parameters",
    "twotower.serving.runtime.filters.predicate",
    *(f"twotower.serving.runtime.{name}" for name in ("live", "live.rules")),
    *(f"twotower.serving.runtime.{name}" for name in ("operators", "operators.times")),
    "twotower.serving.triton",
    "twotower.serving.triton.control",
}


def test_the_client_imports_only_numpy_and_tritonclient():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    foreign, own = map(literal_eval, done.stdout.splitlines())
    assert foreign == []
    assert set(own) == OWN
