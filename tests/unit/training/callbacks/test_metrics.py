"""What is logged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from qat.training.optim import rate_factor

Tiny = Any


def test_a_row_has_losses_rates_and_precision(tiny: Tiny, tmp_path: Path) -> None:
    module = tiny.quantized(20)
    tiny.run(module, tmp_path)
    rows = tiny.rows(tmp_path)
    assert [int(row["step"]) for row in rows] == list(range(1, 21))
    for row in rows:
        state, step = module.schedule.state_at(int(row["step"]) - 1), int(row["step"]) - 1
        assert float(row["train/loss"]) == pytest.approx(
            0.5 * float(row["train/kl"]) + 0.5 * float(row["train/ce"]), rel=1e-5
        )
        assert float(row["lr/weights"]) == float(row["lr/ranges"]) == 1e-3 * rate_factor(module.config, step, 20)
        assert int(row["phase"]) == ["warmup", "bits", "end"].index(state.phase)
        assert int(row["bits"]) == (max(4, state.weight_bits or 4) if state.weights else 32)


def test_the_loss_is_the_mean_of_the_accumulation_window(tiny: Tiny, tmp_path: Path) -> None:
    module, losses = tiny.float(), []
    step = module.training_step

    def training_step(batch: Any, batch_idx: int) -> Any:
        parts = step(batch, batch_idx)
        losses.append(parts["loss"].item())
        return parts

    module.training_step = training_step
    tiny.run(module, tmp_path, max_steps=3, accumulate=3, val_every=0)
    logged = [float(row["train/loss"]) for row in tiny.rows(tmp_path)]
    assert logged == pytest.approx([sum(losses[i : i + 3]) / 3 for i in (0, 3, 6)])


def test_log_every_and_the_last_step(tiny: Tiny, tmp_path: Path) -> None:
    tiny.run(tiny.float(), tmp_path, max_steps=7, log_every=3, val_every=2)
    rows = tiny.rows(tmp_path)
    assert [(int(r["step"]), bool(r["train/loss"]), bool(r["val/loss"])) for r in rows] == [
        (2, False, True),
        (3, True, False),
        (4, False, True),
        (6, True, True),
        (7, True, False),
    ]


def test_perplexity_is_the_exponential_of_the_loss(tiny: Tiny, tmp_path: Path) -> None:
    module = tiny.float()
    tiny.run(module, tmp_path, max_steps=1, val_every=1)
    row = tiny.rows(tmp_path)[-1]
    assert float(row["val/loss"]) == module.validation_loss
    assert float(row["val/perplexity"]) == math.exp(module.validation_loss)
