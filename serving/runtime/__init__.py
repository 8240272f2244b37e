"""What runs inside the served model; copied into every version of the model repository.

Imports the standard library, NumPy, ONNX Runtime and FAISS alone (`merlin_engine` excepted).
"""
