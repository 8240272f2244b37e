"""The checkerboard as fixtures of every test module in this folder."""

from tests.models.checkerboard import data, schema  # noqa: F401
