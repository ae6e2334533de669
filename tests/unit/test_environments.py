"""Environments of packages that do not go with ours: where they lie, and what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from qat.environments import ForeignPython, environments


def test_they_lie_in_the_users_cache_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QAT_ENGINES", raising=False)
    assert environments() == Path.home() / ".cache/qat/engines"
    monkeypatch.setenv("QAT_ENGINES", "here")
    assert environments() == Path.cwd() / "here", "the worker has another working folder"


def test_what_is_missing_and_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QAT_ENGINES", str(tmp_path))
    python = ForeignPython("tool", "the_tool")
    assert python.missing() == "not installed: scripts/engines.sh tool"
    assert python.version("the_tool") is None
    packages = tmp_path / "tool/lib/python3.11/site-packages"
    (tmp_path / "tool/bin").mkdir(parents=True)
    (tmp_path / "tool/bin/python").touch()
    assert python.missing() == f"its environment {tmp_path}/tool has no package the_tool: scripts/engines.sh tool"
    (packages / "the_tool").mkdir(parents=True)
    (packages / "the_tool/__init__.py").touch()
    (packages / "the_tool-1.2.3.dist-info").mkdir()
    assert (python.missing(), python.version("the_tool")) == (None, "1.2.3")


def test_our_own_python_path_stays_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QAT_ENGINES", str(tmp_path))
    assert ForeignPython("tool", "the_tool").command("a.py", "1") == (f"{tmp_path}/tool/bin/python", "-E", "a.py", "1")
