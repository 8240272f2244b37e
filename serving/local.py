"""Runs an exported version in this process, without Triton."""

from __future__ import annotations

import importlib
import importlib.util
import json
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from twotower.serving.client.values import (
    NO_FILTERS,
    NOT_RANKED,
    Filters,
    Ranking,
    Values,
    column,
    id_column,
    padded_lists,
    read_texts,
    read_values,
)
from twotower.serving.runtime.contract import ALLOW, EXCLUDE, RECOMMEND_FOR, SCORE, SIMILAR_TO
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.filters.parameters import FILTER_SEEN, K
from twotower.serving.runtime.index import METADATA_FILE, load_index
from twotower.serving.runtime.manifest import MODEL_FILE, verify_manifest

MAX_ROWS = 1 << 62
"""Largest number of users times candidates: the limit of a version is for a server."""
NO_FEATURES: Mapping[str, Values] = MappingProxyType({})


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
    item_vectors : ndarray of float32, shape (n, D), or StoredVectors
        The vectors of `item_ids`; those of an approximate index are decoded where they are read.
    folder : Path
        The version's folder.
    denied : ndarray of bool, shape (n,)
        Which of `item_ids` are in no answer.
    towers_sha256 : str
        Hash of the towers.
    contract : Contract
        Names and types of what `answer` takes and returns.

    Raises
    ------
    ServingError
        If the version differs from its manifest, or cannot run in this process.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        verify_manifest(folder)
        self.folder = folder
        model = json.loads((folder / MODEL_FILE).read_text())
        try:
            contract, ids, engine = _load(folder, model["runtime"], threads)
            self._index = load_index(next(folder.rglob(METADATA_FILE)).parent)
            self.item_vectors = self._index.vectors
            self.towers_sha256 = self._index.metadata["towers_sha256"]
            limits = {"default_k": 1, "max_k": len(self._index.item_ids)}
            if "max_rows" in model["contract"]:
                limits["max_rows"] = MAX_ROWS
            self.contract = contract.Contract(**{**model["contract"], **limits})
            self._ids = ids.ServedIds(self.contract, folder, decodes_users=True)
            self._user_codes = _known_users(folder, engine)
            self.user_ids = read_texts(self._ids.users.decode(self._user_codes))
            self.item_ids = read_texts(self._ids.items.decode(self._index.item_ids))
        except Exception as error:
            raise ServingError(
                f"{folder}: cannot run in this process: {error}; "
                "if another release of this package exported it, export and publish it again"
            ) from error
        self._engine = engine
        self.denied = np.zeros(len(self.item_ids), bool)

    def answer(
        self,
        user_ids: Iterable,
        k: int,
        filter_seen: bool = False,
        features: Mapping[str, Values] = NO_FEATURES,
        filters: Filters = NO_FILTERS,
        ranking: Ranking = NOT_RANKED,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the k best items for each user, best first.

        Parameters
        ----------
        user_ids : iterable of int or str, length n
        k : int
            Items per user; at most as many as the version has.
        filter_seen : bool, default False
            Whether to leave out the items that the user has seen.
        features : mapping of str to sequence
            Features of the users, one value (for a list feature, one list) per user, in place of
            those that the version has stored. Without a time, it is that of this machine's clock.
        filters : Filters, optional
            What the answers may hold.
        ranking : Ranking, optional
            Whether the ranking model orders the answers. Scores are its probabilities then, and k
            is at most `contract.candidates`.

        Returns
        -------
        item_ids : ndarray of int64, uint64 or str, shape (n, k)
        scores : ndarray of float32, shape (n, k)
            -inf where a user has fewer than k items left; the id means nothing there.

        Raises
        ------
        ServingError
            If an id or a feature has a value of another kind, or a feature is unknown; if the
            version has no ranking model.

        Notes
        -----
        A score may differ in its last bit between batches of different size or with different
        neighbours, here as on the server, because sums of floats depend on their order.
        """
        parameters = {K: k, FILTER_SEEN: filter_seen, **filters.parameters, **ranking.parameters}
        lists = {name: read_values(name, values) for name, values in filters.inputs.items()}
        if ranking.rank and not self.candidates:
            raise ServingError(
                f"{self.folder}: this version has no ranking model; set ranking.model, and run "
                "`twotower rank`, `twotower evaluate`, `twotower export` and `twotower publish`"
            )
        table = self._table(user_ids, parameters, {**features, **lists}, ranking.rank)
        answer = self._engine.recommend if ranking.rank else self._engine.run
        columns = self._ids.decode(answer(table))
        return read_texts(columns[self.contract.item_id]), columns[SCORE]

    def similar(
        self,
        items: Iterable[Iterable],
        k: int,
        filters: Filters = NO_FILTERS,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the k items that are most similar to each row's items, best first.

        Parameters
        ----------
        items : iterable of iterable of int or str, length n
            Ids of items, see `RetrievalClient.similar`.
        k : int
            Items per row; at most as many as the version has.
        filters : Filters, optional
            What the answers may hold.

        Returns
        -------
        item_ids : ndarray of int64, uint64 or str, shape (n, k)
        scores : ndarray of float32, shape (n, k)
            Cosines; -inf where fewer than k items are left.

        Raises
        ------
        ServingError
            If the version was exported by a release that cannot do this.
        """
        if not hasattr(self._engine, "similar"):
            raise ServingError(
                f"{self.folder}: an earlier release exported it, which cannot find similar items; "
                "export it again and publish it"
            )
        lists = {SIMILAR_TO: items, **filters.inputs}
        tensors = {
            name: self._tensor(name, read_values(name, values)) for name, values in lists.items()
        }
        table = self._encoded(tensors, {K: k, **filters.parameters})
        columns = self._ids.decode(self._engine.similar(table))
        return read_texts(columns[self.contract.item_id]), columns[SCORE]

    def deny(self, item_ids: Sequence[int | str]) -> None:
        """Leave items, ids as given, out of all answers from now on; unknown ones are ignored.

        Raises
        ------
        ServingError
            If the version was exported by a release that cannot do this.
        """
        codes = getattr(self._ids, "codes", None)
        if codes is None:
            raise ServingError(
                f"{self.folder}: an earlier release exported it, which cannot leave denied items "
                "out; export it again and publish it"
            )
        denied = codes(item_ids)
        self._engine.deny(denied)
        self.denied = np.isin(self._index.item_ids, denied)

    def knows(self, user_ids: Iterable) -> np.ndarray:
        """Return for each user whether the version knows them, as bool [n]."""
        return np.isin(self._table(user_ids, {})[self.contract.user_id], self._user_codes)

    @property
    def candidates(self) -> int:
        """How many items the ranking model orders; 0 if there is none."""
        # Another release's contract may lack the attribute.
        return getattr(self.contract, "candidates", 0)

    @property
    def time_input(self) -> str | None:
        """The name of the feature that is the time of a request; None if there is none."""
        # Another release's contract may lack the attribute.
        times = getattr(self.contract, "times", None)
        return times["input"] if times else None

    def unknown_time(self, count: int) -> dict[str, list[None]]:
        """Return the feature that makes the time of `count` users unknown; {} if there is none."""
        return {self.time_input: [None] * count} if self.time_input else {}

    def query_vectors(self, user_ids: Iterable) -> np.ndarray:
        """Return the vectors with which users are looked up among the item vectors.

        The time at which they are used is unknown.

        Parameters
        ----------
        user_ids : iterable of int or str, length n

        Returns
        -------
        ndarray of float32, shape (n, D)

        Raises
        ------
        ServingError
            If the version cannot return them.
        """
        vectors = getattr(self._engine, "vectors", None)
        if vectors is None:
            raise ServingError(
                f"{self.folder}: cannot return the users' vectors; export it again with "
                "serving.runtime compiled, and publish it"
            )
        users = list(user_ids)
        return vectors(self._table(users, {}, self.unknown_time(len(users))))

    def _table(
        self,
        user_ids: Iterable,
        parameters: dict[str, Any],
        features: Mapping[str, Values] = NO_FEATURES,
        rank: bool = False,
    ) -> dict[str, np.ndarray]:
        """Return the table of a request, with codes."""
        name, contract = self.contract.user_id, self.contract
        users = id_column(name, read_values(name, user_ids), contract.user_id_type)
        given = {each: self._tensor(each, values) for each, values in features.items()}
        return self._encoded({RECOMMEND_FOR if rank else name: users, **given}, parameters)

    def _encoded(
        self, inputs: Mapping[str, np.ndarray], parameters: Mapping[str, Any]
    ) -> dict[str, np.ndarray]:
        """Return the table of a request's tensors, with codes."""
        return self._ids.encode(self.contract.join([self.contract.read(inputs, parameters)]))

    def _tensor(self, name: str, values: Values) -> np.ndarray:
        """Convert the values of a feature as a client converts those of a request."""
        if name in (ALLOW, EXCLUDE, SIMILAR_TO):
            return padded_lists(name, values, self.contract.item_id_type)
        kind = self.contract.features.get(name)
        if kind is None:
            names = ", ".join(self.contract.features) or "no features"
            raise ServingError(f"feature '{name}' is unknown; this version takes {names}")
        if name in self.contract.lists:
            return padded_lists(name, values, kind)
        return column(name, values, kind, nullable=True)


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
