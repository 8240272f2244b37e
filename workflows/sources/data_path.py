"""Paths of data: of this machine, of S3 or of GCS."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path, PosixPath, PurePath
from typing import Any

from twotower.workflows.errors import DataError

CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
}
"""The environment variables with credentials and places, by scheme."""
_SCHEME = re.compile(r"(s3|gs):/+")


class DataPath(PosixPath):
    """A path of this machine, or of S3 or GCS: `s3://bucket/folder`, `gs://bucket/folder`.

    A remote path is absolute: joined to another path, it replaces it.

    Examples
    --------
    >>> str(Path("/home") / DataPath("s3://shop/days") / "orders.csv")
    's3://shop/days/orders.csv'
    """

    @property
    def is_remote(self) -> bool:
        """Whether it is a path of S3 or GCS."""
        return self.parts[:1] in (("s3:",), ("gs:",))

    def __str__(self) -> str:
        return _SCHEME.sub(r"\1://", super().__str__()) if self.is_remote else super().__str__()

    def __rtruediv__(self, other: Any) -> Any:
        return self if self.is_remote else super().__rtruediv__(other)

    def is_absolute(self) -> bool:
        """Whether joining it to another path gives this path."""
        return self.is_remote or super().is_absolute()

    @classmethod
    def __get_validators__(cls) -> Iterator[Callable[..., Path]]:
        from pydantic.validators import path_validator

        yield path_validator
        yield cls.without_credentials

    @classmethod
    def without_credentials(cls, path: Path) -> DataPath:
        """Return `path`; DataError, which does not repeat it, if it has credentials."""
        made = cls(path)
        if made.is_remote and "@" in "".join(made.parts[1:2]):
            scheme = made.parts[0]
            raise DataError(
                f"the {scheme}// path has credentials, which a run folder must not store; put them "
                f"into the environment: {CREDENTIALS[scheme[:-1]]}"
            )
        return made


def is_remote(path: PurePath) -> bool:
    """Whether a path is one of S3 or GCS."""
    return DataPath(path).is_remote
