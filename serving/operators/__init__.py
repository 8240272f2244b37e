"""The operators of the served graph as merlin-systems' executor runs them.

They are the reference: plain code on pandas, NVTabular and TensorFlow. `compile` writes the files
from which the operator of the same name in `serving.runtime.operators` gives the same answers
without these libraries.
"""
