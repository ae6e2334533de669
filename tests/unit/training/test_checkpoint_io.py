"""Checkpoint files are whole or not there."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from qat.errors import DiskFull, InputError
from qat.training.checkpoint_io import AtomicCheckpointIO

CHECKPOINT = {"weights": torch.arange(4.0), "step": 3, "name": "x"}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CHECKPOINT, path)
    loaded = AtomicCheckpointIO().load_checkpoint(path)
    assert torch.equal(loaded.pop("weights"), CHECKPOINT["weights"])
    assert loaded == {"step": 3, "name": "x"}
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CHECKPOINT, path)
    whole = path.read_bytes()

    def half(checkpoint: Any, file: Any) -> None:
        file.write(whole[: len(whole) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(DiskFull, match="no space left on the disk; free some and resume; the one before it is kept$"):
        AtomicCheckpointIO().save_checkpoint(CHECKPOINT, path)
    assert path.read_bytes() == whole
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_real_full_disk_is_named(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here to write to")
    (tmp_path / ".last.ckpt.tmp").symlink_to(full)
    with pytest.raises(DiskFull, match="no space left on the disk; free some and resume; there is none before it$"):
        AtomicCheckpointIO().save_checkpoint(CHECKPOINT, tmp_path / "last.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no checkpoint"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_truncated_checkpoint_is_named(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CHECKPOINT, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(InputError, match=r"last\.ckpt is not a readable checkpoint"):
        AtomicCheckpointIO().load_checkpoint(path)


class Harmful:
    """Unpickling it would call a function."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("called",)


def _pickle(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize("save", [torch.save, _pickle])
def test_foreign_classes_are_not_unpickled(tmp_path: Path, save: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "last.ckpt"
    save({"state_dict": Harmful()}, path)
    with pytest.raises(InputError, match="not a readable checkpoint"):
        AtomicCheckpointIO().load_checkpoint(path)
    assert capsys.readouterr().out == ""


def test_remove(tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    AtomicCheckpointIO().save_checkpoint(CHECKPOINT, path)
    AtomicCheckpointIO().remove_checkpoint(path)
    AtomicCheckpointIO().remove_checkpoint(path)
    assert not path.exists()
