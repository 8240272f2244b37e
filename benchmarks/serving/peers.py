"""Model repositories of the peers: the identity model and the stock ensemble."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

# This must be set before TensorFlow is imported, here and in the model's process.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cloudpickle
import numpy as np
import pandas as pd
from google.protobuf import text_format
from merlin.dag import ColumnSelector
from merlin.systems.dag import Ensemble
from merlin.systems.dag.ops.faiss import QueryFaiss, setup_faiss
from merlin.systems.dag.ops.tensorflow import PredictTensorflow
from merlin.systems.dag.ops.workflow import TransformWorkflow
from merlin.systems.dag.runtimes.triton import TritonExecutorRuntime
from merlin.table import TensorTable
from tritonclient.grpc import model_config_pb2 as triton

from twotower.serving.triton.control import MODEL_NAME

TOP_K, OUTPUT = 10, "candidate_ids"
IDENTITY = Path(__file__).with_name("identity_model.py")


def write_identity(repository: Path, served_config: Path) -> None:
    """Write a repository whose model echoes the user id, batched as the served model is.

    Parameters
    ----------
    repository : Path
        New folder.
    served_config : Path
        config.pbtxt of the served model, whose first input is the user id.
    """
    config = text_format.Parse(served_config.read_text(), triton.ModelConfig())
    user_id = config.input[0]
    echo = triton.ModelOutput(name=user_id.name, data_type=user_id.data_type, dims=user_id.dims)
    identity = triton.ModelConfig(
        name=MODEL_NAME,
        backend="python",
        max_batch_size=config.max_batch_size,
        dynamic_batching=config.dynamic_batching,
        instance_group=config.instance_group,
        input=[user_id],
        output=[echo],
    )
    version = repository / MODEL_NAME / "1"
    version.mkdir(parents=True)
    shutil.copyfile(IDENTITY, version / "model.py")
    (version.parent / "config.pbtxt").write_text(text_format.MessageToString(identity))


def write_stock(
    repository: Path,
    workflow: Any,
    query_tower: Path,
    item_ids: np.ndarray,
    vectors: np.ndarray,
) -> None:
    """Write the ensemble that merlin-systems' own operators and export make.

    Parameters
    ----------
    repository : Path
        New folder.
    workflow : nvtabular.Workflow
        The sub-workflow "user"; its files must stay where they are.
    query_tower : Path
        Folder of a SavedModel.
    item_ids : ndarray of int64, shape (n,)
    vectors : ndarray of float32, shape (n, dim)
        Item vectors.
    """
    repository.mkdir(parents=True)
    index = repository.parent / f"{repository.name}.faiss"
    items = pd.DataFrame({"item_id": item_ids, "embedding": list(vectors)})
    setup_faiss(items, str(index))
    graph = (
        workflow.input_schema.column_names
        >> DecodingWorkflow(workflow)
        >> ReloadedTower(str(query_tower))
        >> QueryFaiss(index, topk=TOP_K)
    )
    runtime = TritonExecutorRuntime()
    runtime.op_table = {}  # one Python model runs every operator: no TensorFlow backend
    # Pickled by value, as the model's process cannot import this module: Triton's Python ignores
    # PYTHONPATH.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    Ensemble(graph, workflow.input_schema).export(str(repository), runtime, name=MODEL_NAME)
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


class DecodingWorkflow(TransformWorkflow):
    """Repaired stock operator: decodes strings, which reach it as bytes."""

    def transform(self, col_selector: ColumnSelector, transformable: Any) -> Any:
        df = transformable.to_df() if isinstance(transformable, TensorTable) else transformable
        for name in df.select_dtypes(object):
            df[name] = df[name].map(bytes.decode)
        return TensorTable.from_df(super().transform(col_selector, df))


class ReloadedTower(PredictTensorflow):
    """Repaired stock operator: loads its model again after it was pickled.

    It also reshapes columns of shape (n,) to the (n, 1) of the model's signature.
    """

    def transform(self, col_selector: ColumnSelector, transformable: Any) -> Any:
        shapes = {name: self.input_schema[name].shape.as_tuple for name in transformable}
        columns = {
            name: column.values.reshape([-1] + [1] * (len(shapes[name]) - 1))
            for name, column in transformable.items()
        }
        return super().transform(col_selector, TensorTable(columns))

    def save_artifacts(self, artifact_path: Any = None) -> None:
        shutil.copytree(self.path, Path(artifact_path) / "query_tower")

    def load_artifacts(self, artifact_path: Any = None) -> None:
        if artifact_path:  # merlin's Graph also calls this without a path
            import tensorflow as tf

            self.model = tf.saved_model.load(str(Path(artifact_path) / "query_tower"))
