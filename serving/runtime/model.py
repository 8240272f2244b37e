"""`model.py` of a version folder, which Triton's Python backend imports.

The code that it imports is in the same folder, so a version keeps the code that exported it.
The manifest is verified before anything else of the version is read.
"""

import sys
from pathlib import Path

# Not resolved: the server may read the version through a link if the libraries below cannot open
# the real path.
VERSION = Path(__file__).parent
sys.path.insert(0, str(VERSION))
sys.dont_write_bytecode = True

from twotower.serving.runtime.manifest import verify_manifest  # noqa: E402

verify_manifest(VERSION)

from twotower.serving.runtime.triton_model import TritonPythonModel  # noqa: E402, F401
