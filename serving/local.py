"""Runs an exported version in this process, without Triton."""

from __future__ import annotations

import importlib
import importlib.util
import json
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from twotower.serving.client.values import id_column, read_texts, read_values
from twotower.serving.runtime.contract import FILTER_SEEN, SCORE, K
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.index import METADATA_FILE, load_index
from twotower.serving.runtime.manifest import MODEL_FILE, verify_manifest


class LocalVersion:
    """An exported version that gives the same answers as in Triton.

    With `runtime: compiled`, the version's own code runs. With `runtime: merlin`, the installed
    package's operators run, because a pickle refers to classes by name: a version that another
    release exported may fail or answer differently.

    Parameters
    ----------
    folder : Path
        The version's folder.
    threads : int
        Number of threads for the selection of the best items.

    Attributes
    ----------
    item_ids : ndarray of int64, uint64 or str, shape (n,)
        The items that the version knows.
    item_vectors : ndarray of float32, shape (n, D)
        The vectors of `item_ids`.

    Raises
    ------
    ServingError
        If the version differs from its manifest, or cannot run in this process.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        verify_manifest(folder)
        model = json.loads((folder / MODEL_FILE).read_text())
        try:
            contract, ids, engine = _load(folder, model["runtime"], threads)
            self._index = load_index(next(folder.rglob(METADATA_FILE)).parent)
            self.item_vectors = self._index.vectors
            limits = {"default_k": 1, "max_k": len(self._index.item_ids)}
            self._contract = contract.Contract(**{**model["contract"], **limits})
            self._ids = ids.ServedIds(self._contract, folder)
            self._user_codes = _known_users(folder, engine)
            self.item_ids = self._raw(self._index.item_ids)
        except Exception as error:
            raise ServingError(
                f"{folder}: cannot run in this process: {error}; "
                "if another release of this package exported it, export and publish it again"
            ) from error
        self._engine = engine

    def answer(
        self, user_ids: Iterable, k: int, filter_seen: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the k best items for each user, best first.

        Parameters
        ----------
        user_ids : iterable of int or str, length n
        k : int
            Items per user; at most as many as the version has.
        filter_seen : bool, default False
            Whether to leave out the items that the user has seen.

        Returns
        -------
        item_ids : ndarray of int64, uint64 or str, shape (n, k)
        scores : ndarray of float32, shape (n, k)
            -inf where a user has fewer than k items left; the id means nothing there.

        Raises
        ------
        ServingError
            If an id is of another kind than the version's.
        """
        table = self._table(user_ids, {K: k, FILTER_SEEN: filter_seen})
        columns = self._engine.run(table)
        return self._raw(columns[self._contract.item_id]), columns[SCORE]

    def knows(self, user_ids: Iterable) -> np.ndarray:
        """Return for each user whether the version knows them, as bool [n]."""
        return np.isin(self._table(user_ids, {})[self._contract.user_id], self._user_codes)

    def _table(self, user_ids: Iterable, parameters: dict[str, Any]) -> dict[str, np.ndarray]:
        """Return the table of a request for users, with codes."""
        name, datatype = self._contract.user_id, self._contract.user_id_type
        tensor = id_column(name, read_values(name, user_ids), datatype)
        return self._ids.encode(
            self._contract.join([self._contract.read({name: tensor}, parameters)])
        )

    def _raw(self, codes: np.ndarray) -> np.ndarray:
        """Return the ids of items."""
        decoded = self._ids.decode({self._contract.item_id: codes, SCORE: codes})
        return read_texts(decoded[self._contract.item_id])


def _load(folder: Path, runtime: str, threads: int) -> tuple[Any, Any, Any]:
    """Return the version's own modules `contract` and `operators.ids`, and its engine."""
    package = folder / "twotower" / "serving"
    name = f"_serving_{secrets.token_hex(4)}"  # differs from this package and from other versions
    spec = importlib.util.spec_from_file_location(
        name, package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec and spec.loader  # always set for a path that ends in .py
    sys.modules[name] = importlib.util.module_from_spec(spec)
    # Bytecode must not be written into the folder, because the manifest does not list it.
    writes_none, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(sys.modules[name])
        contract = importlib.import_module(f"{name}.runtime.contract")
        ids = importlib.import_module(f"{name}.runtime.operators.ids")
        if runtime == "compiled":
            engine = importlib.import_module(f"{name}.runtime.compiled_engine")
            return contract, ids, engine.CompiledEngine(folder, threads)
        engine = importlib.import_module(f"{name}.runtime.merlin_engine")
        return contract, ids, engine.MerlinEngine(folder)
    finally:
        sys.dont_write_bytecode = writes_none
        for module in [each for each in sys.modules if each.partition(".")[0] == name]:
            del sys.modules[module]  # the engine still refers to what it needs


def _known_users(folder: Path, engine: Any) -> np.ndarray:
    """Return the codes of the version's user table."""
    stored = [np.load(file) for file in folder.glob("*/user_ids.npy")]
    if not stored:
        from merlin.dag import postorder_iter_nodes

        nodes = postorder_iter_nodes(engine.ensemble.graph.output_node)
        stored = [node.op.user_ids for node in nodes if hasattr(node.op, "user_ids")]
    return np.unique(np.concatenate([np.asarray(ids, np.int64) for ids in stored]))
