"""Runs the ensemble with merlin-systems' own executor."""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
import tensorflow as tf

from .contract import SCORE, Contract, Table
from .engine import Counts
from .errors import ServingError
from .live.users import LiveUsers
from .manifest import ENSEMBLE_FOLDER, MODEL_FILE


class MerlinEngine:
    """Answers tables with merlin-systems' executor.

    It unpickles the ensemble, which can execute code, so the manifest must be verified before.

    Parameters
    ----------
    version : Path
        The version's folder.
    """

    def __init__(self, version: Path) -> None:
        from merlin.dag import postorder_iter_nodes
        from merlin.systems.dag import Ensemble

        model = json.loads((version / MODEL_FILE).read_text())
        self.contract = Contract(**model["contract"])
        folder = str(version / ENSEMBLE_FOLDER)
        self.ensemble = Ensemble.load(folder)
        nodes = postorder_iter_nodes(self.ensemble.graph.output_node)
        operators = [node.op for node in nodes]
        for operator in operators:
            operator.load_artifacts(folder)
        self.top_k = next(each for each in operators if hasattr(each, "similar"))
        self.item_codes = self.top_k.index.item_ids

    def run(self, table: Table) -> Table:
        """Answer a table of n requests (see `Engine.run`)."""
        answer = self.recommend(table)
        return {name: answer[name] for name in (self.contract.item_id, SCORE)}

    def recommend(self, table: Table) -> Table:
        """Answer a table of requests to the model `recommend` (see `Engine.recommend`)."""
        from merlin.table import TensorTable

        return self.ensemble.transform(TensorTable(self.contract.complete(table))).to_dict()

    def similar(self, table: Table) -> Table:
        """Answer a table of requests for similar items (see `Engine.similar`)."""
        return self.top_k.similar(self.contract.complete(table))

    def deny(self, codes: np.ndarray) -> None:
        """Leave items out of all answers (see `Engine.deny`)."""
        self.top_k.denied = codes

    def follow(self, live: LiveUsers) -> None:
        """Refuse, because merlin-systems' executor answers from what the version holds."""
        raise ServingError("events need serving.runtime compiled, but this version has merlin")

    def changed(self, slot: int) -> None:
        """Do nothing, because no events are followed."""

    def counts(self) -> Counts:
        """Return no counts, because merlin-systems' executor does not count."""
        return {}


def load(version: Path, threads: int) -> MerlinEngine:
    """Return the engine of `runtime: merlin`; set the number of threads of the whole process."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    faiss.omp_set_num_threads(threads)
    return MerlinEngine(version)
