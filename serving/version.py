"""Writes the served graph as a version: a folder that Triton can serve."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from merlin.dag import postorder_iter_nodes
from merlin.systems.dag import Ensemble
from tritonclient.grpc import model_config_pb2 as triton

from twotower.serving.config import ServingConfig
from twotower.serving.config_file import CONFIG_FILE, face_file
from twotower.serving.ensemble import compile_ensemble, contract, operator
from twotower.serving.operators.top_k import FaissTopK
from twotower.serving.raw_ids import INTEGERS, VersionIds
from twotower.serving.runtime.contract import (
    ALLOW,
    ARM,
    EXCLUDE,
    RECOMMEND_FOR,
    RETRIEVAL_SCORE,
    SCORE,
    SIMILAR_TO,
    Contract,
)
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.live.recording import PREFIX, RECORDED
from twotower.serving.runtime.live.rules import EventRules
from twotower.serving.runtime.manifest import ENSEMBLE_FOLDER, MODEL_FILE, write_manifest
from twotower.serving.triton.control import EVENTS, MODEL_NAME, RECOMMEND, SIMILAR_ITEMS

CODE = ["__init__.py", "runtime/**/*.py"]
"""The files of this package that each version contains a copy of."""
REFERENCE_CODE = ["operators/*.py", "seen.py", "vocabularies.py"]
"""The files that a version for `runtime: merlin` contains in addition."""


def write_version(
    ensemble: Ensemble,
    out: Path,
    config: ServingConfig,
    ids: VersionIds = INTEGERS,
    times: dict[str, Any] | None = None,
    events: EventRules | None = None,
    learned: Mapping[str, str] | None = None,
) -> None:
    """Write a version, which `ModelRepository.add` can add to a repository.

    A version is self-contained: to serve it, Triton needs only NumPy, ONNX Runtime and FAISS, and
    for `runtime: merlin` also TensorFlow and the Merlin packages.

    Parameters
    ----------
    ensemble : Ensemble
        The graph that `build_ensemble` returned.
    out : Path
        A new or empty folder.
    config : ServingConfig
        The limits and the runtime of the version.
    ids : VersionIds, optional
        The ids of requests and answers; the graph has codes. The default: integers are their codes.
    times : dict of str to Any, optional
        Arguments of `TimeFeatures`, if the graph has features of the time.
    events : EventRules, optional
        What events may hold. By default the version knows no events.
    learned : mapping of str to str, optional
        The store of events, and the position up to which the towers have learned from it.

    Raises
    ------
    ServingError
        If `out` is not empty.
    """
    version = Path(out)
    version.mkdir(parents=True, exist_ok=True)
    if any(version.iterdir()):
        raise ServingError(f"{version} is not empty; export into a new folder")
    if config.runtime == "compiled":
        compile_ensemble(ensemble, version)
        _copy_code(version, CODE)
    else:
        _save_ensemble(ensemble, version / ENSEMBLE_FOLDER)
        _copy_code(version, [*CODE, *REFERENCE_CODE])
    ids.write(version)
    served = contract(ensemble, config.default_k, config.max_k, ids, times, events)
    model = {
        "runtime": config.runtime,
        "threads": config.threads,
        "contract": asdict(served),
        "learned": None if learned is None else dict(learned),
    }
    (version / MODEL_FILE).write_text(json.dumps(model, indent=2) + "\n")
    (version / CONFIG_FILE).write_text(model_config(served, config))
    (version / face_file(SIMILAR_ITEMS)).write_text(similar_config(served, config))
    if served.candidates:
        (version / face_file(RECOMMEND)).write_text(recommend_config(served, config))
    if events:
        (version / face_file(EVENTS)).write_text(events_config(served, config))
    write_manifest(
        version,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        towers_sha256=operator(ensemble, FaissTopK).towers_sha256,
        runtime=config.runtime,
    )


def model_config(served: Contract, config: ServingConfig) -> str:
    """Return Triton's config.pbtxt, except the version to serve, which publishing adds."""
    # All inputs are optional: a request has users or items.
    names = {served.user_id: served.user_id_type, **_features(served)}
    names[SIMILAR_TO] = served.item_id_type
    if served.candidates:
        names[RECOMMEND_FOR] = served.user_id_type
    names |= _event_inputs(served)
    # KIND_CPU sets where Triton puts the tensors; TensorFlow still uses a GPU if there is one.
    instance = triton.ModelInstanceGroup(kind=triton.ModelInstanceGroup.KIND_CPU, count=1)
    # Requests that wait while the model is busy are answered as one batch.
    batching = triton.ModelDynamicBatching(
        preferred_batch_size=config.preferred_batch_sizes,
        max_queue_delay_microseconds=config.queue_delay_us,
    )
    return text_format.MessageToString(
        triton.ModelConfig(
            name=MODEL_NAME,
            backend="python",
            max_batch_size=config.max_batch_size,
            dynamic_batching=batching,
            input=[_input(served, name, dtype) for name, dtype in names.items()],
            output=[
                *_outputs(served, of_recommend=served.candidates > 0),
                *_arm(),
                *(_recorded() if served.events else []),
            ],
            instance_group=[instance],
        )
    )


def similar_config(served: Contract, config: ServingConfig) -> str:
    """Return the config.pbtxt of the model of similar items, except the version."""
    inputs = {name: (name, served.item_id_type) for name in (SIMILAR_TO, ALLOW, EXCLUDE)}
    return _face_config(
        SIMILAR_ITEMS, inputs, _outputs(served), served, config, required=SIMILAR_TO
    )


def recommend_config(served: Contract, config: ServingConfig) -> str:
    """Return the config.pbtxt of the model that ranks candidates, except the version."""
    inputs = {served.user_id: (RECOMMEND_FOR, served.user_id_type)}
    inputs |= {name: (name, dtype) for name, dtype in _features(served).items()}
    outputs = [*_outputs(served, of_recommend=True), *_arm()]
    return _face_config(RECOMMEND, inputs, outputs, served, config, required=served.user_id)


def events_config(served: Contract, config: ServingConfig) -> str:
    """Return the config.pbtxt of the model that records events, except the version."""
    inputs = {
        name.removeprefix(PREFIX): (name, dtype) for name, dtype in _event_inputs(served).items()
    }
    # If one is missing, the model says which; Triton's message would be about a deadlock.
    return _face_config(EVENTS, inputs, _recorded(), served, config, required=None)


def _event_inputs(served: Contract) -> dict[str, str]:
    """Return the inputs of the model `retrieval` for events, with their types."""
    rules = served.event_rules
    return {f"{PREFIX}{name}": dtype for name, dtype in rules.types.items()} if rules else {}


def _recorded() -> list[triton.ModelOutput]:
    return [triton.ModelOutput(name=RECORDED, data_type=_triton_type("INT64"), dims=[1])]


def _face_config(
    face: str,
    inputs: Mapping[str, tuple[str, str]],
    outputs: list[triton.ModelOutput],
    served: Contract,
    config: ServingConfig,
    required: str | None,
) -> str:
    """Return the config.pbtxt of a face.

    It is an ensemble of a single step, the model `retrieval`, so it needs no process of its own.

    Parameters
    ----------
    face : str
        Its name.
    inputs : mapping of str to (str, str)
        Input of the face -> input of the model `retrieval`, and its type.
    outputs : list of ModelOutput
    served : Contract
    config : ServingConfig
    required : str or None
        The input without which Triton refuses a request.
    """
    step = triton.ModelEnsembling.Step(
        model_name=MODEL_NAME,
        model_version=-1,
        input_map={of_model: name for name, (of_model, _) in inputs.items()},
        output_map={output.name: output.name for output in outputs},
    )
    return text_format.MessageToString(
        triton.ModelConfig(
            name=face,
            platform="ensemble",
            max_batch_size=config.max_batch_size,
            input=[
                _input(served, name, dtype, optional=name != required)
                for name, (_, dtype) in inputs.items()
            ],
            output=outputs,
            ensemble_scheduling=triton.ModelEnsembling(step=[step]),
        )
    )


def _features(served: Contract) -> dict[str, str]:
    """Return the inputs that a request for users may have, with their types."""
    return {**served.features, **dict.fromkeys((ALLOW, EXCLUDE), served.item_id_type)}


def _input(served: Contract, name: str, dtype: str, optional: bool = True) -> triton.ModelInput:
    is_list = name in {*served.lists, ALLOW, EXCLUDE, SIMILAR_TO}
    return triton.ModelInput(
        name=name,
        data_type=_triton_type(dtype),
        dims=[-1 if is_list else 1],
        # Lists of different widths may be in one batch, because each request is read alone.
        allow_ragged_batch=is_list,
        optional=optional,
    )


def _outputs(served: Contract, of_recommend: bool = False) -> list[triton.ModelOutput]:
    names = {served.item_id: served.item_id_type, SCORE: "FP32"}
    if of_recommend:
        names[RETRIEVAL_SCORE] = "FP32"
    return [
        triton.ModelOutput(name=name, data_type=_triton_type(dtype), dims=[-1])
        for name, dtype in names.items()
    ]


def _arm() -> list[triton.ModelOutput]:
    """Return the output of the version that answered; `recommend` always has it."""
    return [triton.ModelOutput(name=ARM, data_type=_triton_type("INT64"), dims=[1])]


def _triton_type(dtype: str) -> int:
    return triton.DataType.Value("TYPE_STRING" if dtype == "BYTES" else f"TYPE_{dtype}")


def _save_ensemble(ensemble: Ensemble, folder: Path) -> None:
    ensemble.save(str(folder))
    for node in postorder_iter_nodes(ensemble.graph.output_node):
        node.op.save_artifacts(str(folder))


def _copy_code(version: Path, patterns: list[str]) -> None:
    """Copy files of this package to `<version>/twotower/serving/`, the entry point to model.py.

    `patterns` are relative to this package.
    """
    package, copy = Path(__file__).parent, version / "twotower" / "serving"
    for source in (path for pattern in patterns for path in sorted(package.glob(pattern))):
        target = copy / source.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    (copy.parent / "__init__.py").touch()
    (copy / "runtime" / "model.py").rename(version / "model.py")
