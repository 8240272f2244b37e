"""`model.py` of the identity model: measures what Triton and its Python backend cost."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Answers every request with its inputs."""

    def execute(self, requests: list) -> list:
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(tensor.name(), tensor.as_numpy()) for tensor in request.inputs()]
            )
            for request in requests
        ]
