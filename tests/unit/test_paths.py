"""Folders that are finished or absent."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from qat.errors import InputError
from qat.paths import new_folder, publish, temporary_beside


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


@pytest.mark.parametrize("under", ["gguf", "new/gguf"])
@pytest.mark.parametrize("kind", ["file", "link to nothing"])
def test_what_lies_where_a_folder_must_be_made_is_named(tmp_path: Path, kind: str, under: str) -> None:
    obstacle = tmp_path / "exports"
    if kind == "file":
        obstacle.touch()
    else:
        obstacle.symlink_to(tmp_path / "unmounted")
    with pytest.raises(InputError, match=f"^{obstacle} is no folder, and {obstacle / under} must lie in it; move it"):
        temporary_beside(obstacle / under)
    assert [path.name for path in tmp_path.iterdir()] == ["exports"]


@pytest.mark.parametrize("kind", ["file", "link", "link to nothing"])
def test_what_is_no_folder_is_neither_overwritten_nor_taken_for_absent(tmp_path: Path, kind: str) -> None:
    final, target = tmp_path / "gguf", filled(tmp_path / "elsewhere", "mine")
    if kind == "file":
        final.touch()
    else:
        final.symlink_to(target if kind == "link" else tmp_path / "nothing")
    with pytest.raises(InputError, match=f"^{final} exists already"):
        temporary_beside(final)
    with pytest.raises(InputError, match=f"^{final} is no folder of its own .*; move it away first"):
        temporary_beside(final, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "gguf"]
    assert (target / "file").read_text() == "mine"


def test_a_new_folder_takes_its_name_at_the_end(tmp_path: Path) -> None:
    final = tmp_path / "exports" / "gguf"
    with new_folder(final) as temporary:
        filled(temporary, "new")
        assert not final.exists()
    assert (final / "file").read_text() == "new"
    assert [path.name for path in final.parent.iterdir()] == ["gguf"]


def fail(final: Path, error: BaseException, meanwhile: Path | None = None) -> None:
    """Write half of a folder, while another command writes ``meanwhile``."""
    with new_folder(final) as temporary:
        filled(temporary, "half")
        if meanwhile is not None:
            filled(meanwhile, "theirs")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("bug")])
def test_a_new_folder_that_fails_leaves_no_parent_that_it_made(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(type(error)):
        fail(tmp_path / "run" / "a" / "b" / "gguf", error)
    assert [path.name for path in tmp_path.rglob("*")] == ["run"]


def test_a_parent_in_which_another_command_writes_meanwhile_stays(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bug"):
        fail(tmp_path / "exports" / "gguf", ValueError("bug"), tmp_path / "exports" / "other")
    assert [path.name for path in (tmp_path / "exports").iterdir()] == ["other"]
