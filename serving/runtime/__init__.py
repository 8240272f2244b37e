"""The code that runs inside the served model; each version of the model repository has a copy.

It imports only the standard library, NumPy, ONNX Runtime and FAISS (except `merlin_engine`, which
imports TensorFlow and Merlin), and uses relative imports only.
"""
