"""The operators of the served graph as they run in production: NumPy, ONNX Runtime and FAISS.

Each is made once from its folder of arrays and its entry in plan.json, which the operator of the
same name in `serving.operators` writes. That one is the reference: both give the same answers.
"""
