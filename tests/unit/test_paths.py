"""Folders that are finished or absent."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from qat.errors import InputError
from qat.paths import publish, temporary_beside


@pytest.fixture
def dead() -> int:
    """The id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def left(folder: Path, name: str) -> Path:
    """A folder with a file in it, as a killed process leaves it."""
    path = folder / name
    path.mkdir()
    (path / "half").write_text("x")
    return path


def test_what_a_dead_process_left_for_the_same_folder_is_removed(tmp_path: Path, dead: int) -> None:
    host, final = socket.gethostname(), tmp_path / "quantized"
    stale = left(tmp_path, f".quantized.{host}.{dead}.tmp")
    kept = [
        left(tmp_path, f".quantized.{host}.{os.getppid()}.tmp"),  # of a process that lives
        left(tmp_path, f".quantized.elsewhere.{dead}.tmp"),  # of another host
        left(tmp_path, f".model.{host}.{dead}.tmp"),  # for another folder
        left(tmp_path, f".quantized.{host}.x{dead}.tmp"),  # not our pattern
        left(tmp_path, f"quantized.{host}.{dead}.tmp"),
    ]
    temporary = temporary_beside(final)
    assert not stale.exists()
    assert all((path / "half").is_file() for path in kept)
    assert list(temporary.iterdir()) == []
    publish(temporary, final)
    assert final.is_dir()


def test_a_second_attempt_of_the_same_process_starts_empty(tmp_path: Path) -> None:
    (temporary_beside(tmp_path / "new" / "model") / "half").write_text("x")
    assert list(temporary_beside(tmp_path / "new" / "model").iterdir()) == []


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        temporary_beside(tmp_path)


def filled(path: Path, text: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "file").write_text(text)
    return path


def test_an_overwritten_folder_stays_until_the_new_one_takes_its_name(tmp_path: Path) -> None:
    final = filled(tmp_path / "gguf", "old")
    temporary = filled(temporary_beside(final, overwrite=True), "new")
    assert (final / "file").read_text() == "old"
    publish(temporary, final, overwrite=True)
    assert (final / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["gguf"]


def test_an_overwritten_folder_comes_back_if_the_new_one_cannot_take_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = filled(tmp_path / "gguf", "old")
    temporary = temporary_beside(final, overwrite=True)
    temporary.rmdir()
    with pytest.raises(FileNotFoundError):
        publish(temporary, final, overwrite=True)
    assert (final / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["gguf"]


def test_overwrite_needs_nothing_to_write_over(tmp_path: Path) -> None:
    final = tmp_path / "new" / "gguf"
    publish(filled(temporary_beside(final, overwrite=True), "new"), final, overwrite=True)
    assert (final / "file").read_text() == "new"


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_only_copy_that_a_killed_overwrite_left_gets_its_name_back(
    tmp_path: Path, dead: int, overwrite: bool
) -> None:
    aside = left(tmp_path, f".gguf.{socket.gethostname()}.{dead}.tmp.old")
    final = tmp_path / "gguf"
    if overwrite:
        publish(filled(temporary_beside(final, overwrite=True), "new"), final, overwrite=True)
        assert (final / "file").read_text() == "new"
    else:
        with pytest.raises(InputError, match="exists already"):
            temporary_beside(final)
        assert (final / "half").is_file()
    assert not aside.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["gguf"]


def test_what_a_living_process_moved_aside_stays_there(tmp_path: Path) -> None:
    aside = left(tmp_path, f".gguf.{socket.gethostname()}.{os.getppid()}.tmp.old")
    temporary_beside(tmp_path / "gguf")
    assert (aside / "half").is_file() and not (tmp_path / "gguf").exists()
