"""The item index: exact or approximate, written once, read by the served process."""

from .approximate import ApproximateIndex, StoredVectors, inverse_lengths
from .files import INDEX_FILE, METADATA_FILE, build_index, load_index, write_index
from .item_index import ItemIndex

__all__ = [
    "INDEX_FILE",
    "METADATA_FILE",
    "ApproximateIndex",
    "ItemIndex",
    "StoredVectors",
    "build_index",
    "inverse_lengths",
    "load_index",
    "write_index",
]
