"""Names of feature columns that every library downstream can take.

A parquet file may give a column any name. NVTabular uses the name in file names, TensorFlow as a
Python identifier, and the served graph has columns of its own. So a feature has two names: the one
of the data, which configurations, messages and requests use, and an internal one, which the
feature graph, the encoded tables and the towers use.
"""

from __future__ import annotations

import hashlib
import keyword
import re

_PLAIN = re.compile(r"[a-z][a-z0-9_]{0,63}")
_INTERNAL = re.compile(r"column_.*_[0-9a-f]{12}")
_SUFFIXES = ("__state", "__count", "__row")  # of columns that the served graph adds
_RESERVED = {
    # NVTabular's Categorify: it leaves a column of such a name as it is, or fails.
    *("labels", "order"),
    # TensorFlow passes a tower's columns as arguments of these names to a method.
    "self",
    # The served graph's own columns.
    *("k", "filter_seen", "score", "query_vector"),
}


def internal_name(name: str) -> str:
    """The internal name of the column `name`: a function of the name alone, and one to one.

    A plain name stays as it is: a lower-case letter, then up to 63 lower-case letters, digits and
    underscores, neither a Python keyword nor reserved. (TensorFlow does not tell "Age" from "age".)
    Any other name keeps its letters, in lower case, and digits for the reader; a hash of the name
    makes it unique.

    >>> internal_name("zip_code")
    'zip_code'
    >>> internal_name("zip-code")
    'column_zip_code_9ea0020cd29e'
    """
    if (
        _PLAIN.fullmatch(name)
        and not keyword.iskeyword(name)
        and not name.endswith(_SUFFIXES)
        and not _INTERNAL.fullmatch(name)
        and name not in _RESERVED
    ):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"column_{re.sub('[^a-z0-9]+', '_', name.lower()).strip('_')[:24]}_{digest}"
