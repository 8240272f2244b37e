"""`model.py` of the identity model: what Triton and its Python backend cost by themselves."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Answers every request with its input."""

    def execute(self, requests: list) -> list:
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(tensor.name(), tensor.as_numpy()) for tensor in request.inputs()]
            )
            for request in requests
        ]
