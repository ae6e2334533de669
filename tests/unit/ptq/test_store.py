"""Finished blocks on disk: whole or not there."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch

from qat.errors import InputError
from qat.ptq.store import BlockStore

STATE = {"a.weight": torch.randn(3, 4).t(), "a.limit": torch.tensor([[1e-30]]), "count": torch.tensor(3)}


def test_a_block_comes_back_as_it_was(tmp_path: Path) -> None:
    store = BlockStore(tmp_path / "blocks")
    assert "layers.0" not in store
    store.save("layers.0", STATE, loss=0.1 + 0.2)
    assert "layers.0" in store and "layers.1" not in store
    found = store.load("layers.0")
    assert set(found) == set(STATE)
    assert all(torch.equal(found[name], tensor) for name, tensor in STATE.items())
    assert store.loss("layers.0") == 0.1 + 0.2


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_what_was_interrupted_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    store = BlockStore(tmp_path / "blocks")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, stop)
        with pytest.raises(KeyboardInterrupt):
            store.save("layers.0", STATE, 0.0)
    assert "layers.0" not in store
    store.save("layers.0", STATE, 0.0)
    assert "layers.0" in store


def test_what_a_killed_process_left_is_not_taken_for_a_block(tmp_path: Path) -> None:
    left = tmp_path / "blocks" / f".layers.0.{socket.gethostname()}.4194305.tmp"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    store = BlockStore(tmp_path / "blocks")
    assert "layers.0" not in store
    store.save("layers.0", STATE, 0.0)
    assert not left.exists()


def test_a_damaged_block_is_named_with_the_way_out(tmp_path: Path) -> None:
    store = BlockStore(tmp_path / "blocks")
    store.save("layers.0", STATE, 0.0)
    file = tmp_path / "blocks" / "layers.0" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"is damaged .*; or remove .*layers.0, and resume to make it again"):
        store.load("layers.0")


def test_clear_removes_everything(tmp_path: Path) -> None:
    store = BlockStore(tmp_path / "blocks")
    store.clear()
    store.save("layers.0", STATE, 0.0)
    store.clear()
    assert not (tmp_path / "blocks").exists()
