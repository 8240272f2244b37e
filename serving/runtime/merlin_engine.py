"""The same Ensemble, run by merlin-systems' own executor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import faiss
import tensorflow as tf

from .contract import Table
from .manifest import ENSEMBLE_FOLDER


def load(version: Path, threads: int) -> Callable[[Table], Table]:
    """`runtime: merlin`: the function that answers a table.

    It unpickles the ensemble, which runs code: the manifest must have vouched for it.
    """
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    faiss.omp_set_num_threads(threads)

    from merlin.dag import postorder_iter_nodes
    from merlin.systems.dag import Ensemble
    from merlin.table import TensorTable

    folder = str(version / ENSEMBLE_FOLDER)
    ensemble = Ensemble.load(folder)
    for node in postorder_iter_nodes(ensemble.graph.output_node):
        node.op.load_artifacts(folder)
    return lambda table: ensemble.transform(TensorTable(table)).to_dict()
