"""What serving needs is found, or said how to get."""

from __future__ import annotations

import sysconfig

import pytest

from twotower.serving.doctor import check_serving
from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton import installation as triton


def test_everything_is_here():
    checks = {check.name: check for check in check_serving()}
    assert all(check.ok for check in checks.values())
    assert "tritonserver" in checks["Triton"].value
    assert checks["faiss on GPU"].value


def test_a_missing_libpython_says_how_to_get_it(monkeypatch):
    known = sysconfig.get_config_var
    lacking = {"INSTSONAME": "libpython3.99.so.1.0", "LIBDIR": "/nowhere", "MULTIARCH": "none"}
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: lacking.get(name, known(name)))
    with pytest.raises(ServingError, match=r"apt-get install libpython3\.\d+.*uv python install"):
        triton.find_libpython()
    failed = [check for check in check_serving() if not check.ok]
    assert "apt-get install libpython" in failed[-1].advice


def test_the_system_server_comes_first(monkeypatch, tmp_path):
    binary = tmp_path / "bin" / "tritonserver"
    binary.parent.mkdir()
    binary.touch(mode=0o755)
    (tmp_path / "TRITON_VERSION").write_text("2.35.0\n")
    monkeypatch.setenv("PATH", str(binary.parent), prepend=":")
    found = triton.find_triton()
    assert (found.binary, found.version) == (binary, "2.35.0")
    assert found.assemble_backend(tmp_path / "backends") == []
