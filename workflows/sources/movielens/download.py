"""Download the official MovieLens-1M archive and check it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from twotower.workflows.errors import DataError

ML_1M_URL = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
ML_1M_MD5 = "c4d9eecfca2ab87c1945afe126590906"  # published beside the zip, ml-1m.zip.md5
TIMEOUT_S = 4.0


def fetch_movielens_1m(
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
    url: str = ML_1M_URL,
    md5: str = ML_1M_MD5,
) -> Path:
    """Download ml-1m.zip, unless `folder` has it already with the right checksum.

    Parameters
    ----------
    folder : Path
    progress : callable, optional
        Called with (bytes received, bytes in total).
    url, md5 : str
        Where the archive is, and its checksum.

    Returns
    -------
    Path
        The archive. It appears under this name only when it is complete and its checksum is right.

    Raises
    ------
    DataError
        If the server cannot be reached (after about ten seconds), answers with an error, or sends
        another file.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    advice = (
        f"Download {url} by hand and give its folder or the zip as the data path, "
        "or use the synthetic data"
    )
    earlier = folder / "ml-1m.zip"
    try:
        if earlier.is_file() and pooch.file_hash(str(earlier), alg="md5") == md5:
            return earlier
        _resolve(url)
        folder.mkdir(parents=True, exist_ok=True)
        path = pooch.retrieve(
            url,
            known_hash=f"md5:{md5}",
            fname=earlier.name,
            path=folder,
            downloader=pooch.HTTPDownloader(
                timeout=(TIMEOUT_S, 30.0), progressbar=_Bar(progress) if progress else False
            ),
        )
    except (requests.RequestException, OSError) as error:
        raise DataError(f"{url}: download failed ({error}). {advice}") from error
    except ValueError as error:  # pooch's error for a wrong checksum
        raise DataError(
            f"{url}: the md5 of the downloaded file is not {md5} (it is another file or a damaged "
            f"one); it was deleted. {advice}"
        ) from error
    return Path(path)


def _resolve(url: str) -> None:
    """Look up the server's address within TIMEOUT_S.

    The timeouts of an HTTP request do not include this, and on a machine without a network it can
    take a minute.
    """
    import requests

    proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
    host = urlsplit(proxy or url).hostname
    failure: list[OSError] = [
        TimeoutError(f"no answer for the name {host} within {TIMEOUT_S:.0f} s")
    ]

    def look_up() -> None:
        try:
            socket.getaddrinfo(host, None)
            failure.clear()
        except OSError as error:
            failure[:] = [OSError(f"cannot find the address of {host}: {error}")]

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    if failure:
        raise failure[0]


class _Bar:
    """A progress bar as pooch expects it, which calls a callback."""

    def __init__(self, progress: Callable[[int, int], None]):
        self._progress = progress
        self._done = 0
        self.total = 0

    def update(self, step: int) -> None:
        self._done = min(self._done + step, self.total)
        self._progress(self._done, self.total)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        """Do nothing; pooch calls this at the end."""
