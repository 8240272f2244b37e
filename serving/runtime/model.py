"""`model.py` of a version folder: Triton's way in.

The code it imports lies beside it, so a version keeps the code that it was exported with.
Nothing of the version is read before its manifest has vouched for it.
"""

import sys
from pathlib import Path

# Not resolved: the server may read the version through a link, because the real path is one that
# the libraries below cannot open.
VERSION = Path(__file__).parent
sys.path.insert(0, str(VERSION))
sys.dont_write_bytecode = True

from twotower.serving.runtime.manifest import verify_manifest  # noqa: E402

verify_manifest(VERSION)

from twotower.serving.runtime.triton_model import TritonPythonModel  # noqa: E402, F401
