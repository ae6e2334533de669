"""The mean of the last weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qat.errors import InputError
from qat.hosts import range_parameters
from qat.training.trainer import TrainerConfig

Tiny = Any


@pytest.mark.parametrize(("share", "steps"), [(0.5, 5), (0.25, 2), (1.0, 10), (0.01, 1)])
def test_it_is_the_mean_of_the_last_steps(tiny: Tiny, tmp_path: Path, share: float, steps: int) -> None:
    module, seen = tiny.quantized(20), []
    step = module.lr_scheduler_step

    def after(*arguments: Any) -> None:
        step(*arguments)
        seen.append({name: one.detach().double().clone() for name, one in module.model.named_parameters()})

    module.lr_scheduler_step = after
    result = tiny.run(module, tmp_path, max_steps=10, val_every=0, average=share)
    assert (result.averaged, result.weights_of) == (steps, 10)
    assert len(seen) == 10
    for name, value in module.model.named_parameters():
        mean = torch.stack([one[name] for one in seen[-steps:]]).mean(0)
        torch.testing.assert_close(value.double(), mean, atol=1e-6, rtol=1e-5, msg=name)
    name, _ = range_parameters(module.model)[0]
    assert name in dict(module.model.named_parameters()), "ranges too"


def test_training_does_not_see_it(tiny: Tiny, tmp_path: Path) -> None:
    for name, share in (("plain", 0.0), ("averaged", 0.5)):
        result = tiny.run(tiny.quantized(20), tmp_path / name, average=share)
        assert result.averaged == (10 if share else 1)
    states = [tiny.checkpoint(tmp_path / name)["state_dict"] for name in ("plain", "averaged")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert tiny.rows(tmp_path / "plain") == tiny.rows(tmp_path / "averaged")


def test_a_finished_run_is_averaged_again(tiny: Tiny, tmp_path: Path) -> None:
    first, again = tiny.quantized(20), tiny.quantized(20)
    tiny.run(first, tmp_path, average=0.3)
    assert tiny.run(again, tmp_path, resume=True, average=0.3).averaged == 6
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"trainer\.average=1\.5 must be a share"):
        TrainerConfig(max_steps=10, average=1.5)
    with pytest.raises(InputError, match=r"trainer\.average=0\.1 and trainer\.use_best=true"):
        TrainerConfig(max_steps=10, average=0.1, use_best=True, val_every=5)
