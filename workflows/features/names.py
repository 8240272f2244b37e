"""Internal names of feature columns, which every library downstream accepts.

A parquet file may give a column any name, but NVTabular uses the name in file names, TensorFlow
uses it as a Python identifier, and the served graph has columns of its own. So a feature has two
names: the name in the data, which configurations, messages and requests use, and an internal name,
which the feature graph, the encoded tables and the towers use.
"""

from __future__ import annotations

import hashlib
import keyword
import re

_PLAIN = re.compile(r"[a-z][a-z0-9_]{0,63}")
_INTERNAL = re.compile(r"column_.*_[0-9a-f]{12}")
_SUFFIXES = ("__state", "__count", "__row")  # of columns that the served graph adds
_RESERVED = {
    # NVTabular's Categorify fails on columns with these names, or does not encode them.
    "labels",
    "order",
    # TensorFlow passes a tower's columns to a method as arguments with their names.
    "self",
    # The served graph's own columns.
    "k",
    "filter_seen",
    "score",
    "query_vector",
}


def internal_name(name: str) -> str:
    """Return the internal name of the column `name`.

    The result depends on the name alone, and different names have different internal names. A
    plain name stays as it is: a lower-case letter, then up to 63 lower-case letters, digits and
    underscores, neither a Python keyword nor reserved. (TensorFlow does not distinguish "Age" from
    "age".) Any other name is replaced by its letters and digits, in lower case, and a hash.

    Examples
    --------
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
