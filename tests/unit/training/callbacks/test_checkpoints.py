"""When ``last.ckpt`` and ``best.ckpt`` are written, and what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from qat.training.optim import OptimizerConfig

Tiny = Any


def _saves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Name, optimizer step and micro-batches behind every checkpoint that is written from here on."""
    saved: list[tuple[str, int, int]] = []
    save = pl.Trainer.save_checkpoint

    def noted(trainer: pl.Trainer, path: Path, *args: Any, **options: Any) -> None:
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.processed
        saved.append((path.name, trainer.global_step, batches))
        save(trainer, path, *args, **options)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", noted)
    return saved


def test_only_behind_whole_steps(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = _saves(monkeypatch)
    tiny.run(tiny.float(), tmp_path, max_steps=7, save_every=3, val_every=0)
    assert saved == [("last.ckpt", 3, 6), ("last.ckpt", 6, 12), ("last.ckpt", 7, 14)]


def test_a_resume_does_not_save_the_step_that_it_starts_from(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.run(tiny.float(), tmp_path, max_steps=4, save_every=4, val_every=0)
    saved = _saves(monkeypatch)
    tiny.run(tiny.float(), tmp_path, max_steps=8, save_every=4, val_every=0, resume=True)
    assert saved == [("last.ckpt", 8, 16)]


def test_behind_the_validation_of_the_step(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = _saves(monkeypatch)
    module = tiny.float(lr=0.1)
    tiny.run(module, tmp_path, max_steps=6, save_every=2, val_every=2)
    losses = {int(row["step"]): float(row["val/loss"]) for row in tiny.rows(tmp_path) if row["val/loss"]}
    expected, best = [], float("inf")
    for step, loss in losses.items():
        if loss < best:
            best = loss
            expected.append(("best.ckpt", step, 2 * step))
        expected.append(("last.ckpt", step, 2 * step))
    assert saved == expected
    assert tiny.checkpoint(tmp_path)["callbacks"]["Checkpoints"] == {"best": best}


def test_best_holds_the_weights_of_the_lowest_validation_loss(tiny: Tiny, tmp_path: Path) -> None:
    tiny.run(tiny.float(lr=0.05, warmup=0.0), tmp_path, max_steps=8, val_every=1)
    best = tiny.checkpoint(tmp_path, "best.ckpt")
    losses = [float(row["val/loss"]) for row in tiny.rows(tmp_path)]
    assert best["global_step"] == 1 + losses.index(min(losses))
    module = tiny.float(lr=0.0)
    module.load_state_dict(best["state_dict"])
    tiny.run(module, tmp_path / "again", max_steps=1, val_every=1)
    assert module.validation_loss == pytest.approx(min(losses), abs=1e-6)
    assert "optimizer_states" not in best


def test_a_resume_remembers_the_best(tiny: Tiny, tmp_path: Path) -> None:
    options = {"val_every": 1, "save_every": 1}
    tiny.run(tiny.float(lr=0.05, warmup=0.0), tmp_path, max_steps=4, **options)
    before = (tmp_path / "checkpoints" / "best.ckpt").read_bytes()
    tiny.run(tiny.float(lr=0.05, warmup=0.0), tmp_path, max_steps=6, resume=True, **options)
    losses = [float(row["val/loss"]) for row in tiny.rows(tmp_path)]
    best = tiny.checkpoint(tmp_path)["callbacks"]["Checkpoints"]["best"]
    assert min(losses[4:]) > min(losses[:4]) == best
    assert (tmp_path / "checkpoints" / "best.ckpt").read_bytes() == before


def test_only_the_schemes_own_precision_competes(tiny: Tiny, tmp_path: Path) -> None:
    """In float and at 8 and 6 bits the loss is lower; the scheme's 4 bits begin with the 12th step."""
    module = tiny.quantized(20)
    module.loss.mix, module.config = 0.0, OptimizerConfig(lr=0.02, range_lr=1e-3, warmup=0.0, schedule="constant")
    tiny.run(module, tmp_path, val_every=1)
    losses = {int(row["step"]): float(row["val/loss"]) for row in tiny.rows(tmp_path)}
    best = tiny.checkpoint(tmp_path, "best.ckpt")["global_step"]
    of_four_bits = {step: losses[step] for step in range(12, 21)}
    assert min(losses, key=losses.__getitem__) < 12, "the test needs a loss that is lowest before the scheme is on"
    assert best == min(of_four_bits, key=of_four_bits.__getitem__)
    assert tiny.checkpoint(tmp_path)["callbacks"]["Checkpoints"] == {"best": losses[best]}


def test_no_best_before_the_schemes_own_precision(tiny: Tiny, tmp_path: Path) -> None:
    tiny.run(tiny.quantized(20), tmp_path, val_every=10)  # after steps 10 (6 bits) and 20
    assert tiny.checkpoint(tmp_path, "best.ckpt")["global_step"] == 20


def test_without_validation_there_is_no_best(tiny: Tiny, tmp_path: Path) -> None:
    tiny.run(tiny.float(), tmp_path, max_steps=2, val_every=0)
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


def test_checkpoints_are_whole_models(tiny: Tiny, tmp_path: Path) -> None:
    module = tiny.quantized(20)
    tiny.run(module, tmp_path, val_every=0)
    saved = tiny.checkpoint(tmp_path)["state_dict"]
    assert saved.keys() == module.state_dict().keys()
    assert all(torch.equal(saved[name], value) for name, value in module.state_dict().items())
