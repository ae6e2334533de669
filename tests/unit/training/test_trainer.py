"""Options of a run."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from qat.errors import InputError, RunError
from qat.training.module import QATModule
from qat.training.optim import OptimizerConfig
from qat.training.trainer import TrainerConfig

Tiny = Any


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, r"trainer\.max_steps=0 must be 1 or more"),
        ({"batch_size": 0}, r"trainer\.batch_size=0"),
        ({"accumulate": 0}, r"trainer\.accumulate=0"),
        ({"block_size": 1}, r"trainer\.block_size=1 must be 2 or more"),
        ({"gradient_clip": -1.0}, r"trainer\.gradient_clip=-1\.0"),
        ({"val_every": -1}, r"trainer\.val_every=-1 must be 0 or more"),
        ({"val_blocks": 0}, r"trainer\.val_blocks=0"),
        ({"save_every": 0}, r"trainer\.save_every=0"),
        ({"num_threads": 0}, r"trainer\.num_threads=0"),
        ({"precision": "bf16"}, r"trainer\.precision='bf16' must be one of 32, bf16-mixed, 16-mixed"),
        ({"use_best": True, "val_every": 0}, r"trainer\.use_best=true and trainer\.val_every=0: the last step must be"),
        ({"use_best": True, "max_steps": 5, "val_every": 2}, r"a divisor of trainer\.max_steps=5"),
        ({"device": "tpu"}, r"trainer\.device='tpu' must be one of auto, cpu, gpu, mps"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainerConfig(**{"max_steps": 1, **options})


def test_a_device_that_is_not_there_is_refused(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"trainer\.device=gpu is not available here; available: auto, cpu"):
        tiny.run(tiny.float(), tmp_path, device="gpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("32", torch.float32), ("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)],
)
def test_precision_is_that_of_the_arithmetic_and_not_of_the_weights(
    tiny: Tiny, tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    module, seen = tiny.float(), set()
    layer = module.model.model.layers[0].mlp.up_proj
    layer.register_forward_hook(lambda _, args, output: seen.add(output.dtype))
    result = tiny.run(module, tmp_path, max_steps=4, precision=precision)
    assert seen == {dtype}
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    optimizer = tiny.checkpoint(tmp_path)["optimizer_states"][0]["state"]
    assert {state["exp_avg"].dtype for state in optimizer.values()} == {torch.float32}
    assert result.steps == 4
    losses = [float(row["train/loss"]) for row in tiny.rows(tmp_path)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "16-mixed"])
def test_gradients_are_clipped_in_every_precision(tiny: Tiny, tmp_path: Path, precision: str) -> None:
    module, norms = tiny.float(), []

    def on_before_zero_grad(optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())

    module.on_before_zero_grad = on_before_zero_grad
    tiny.run(module, tmp_path, max_steps=3, gradient_clip=1e-3, precision=precision, val_every=0)
    # The first time there are none yet; then those that were stepped with.
    assert norms == pytest.approx([0.0, 1e-3, 1e-3], rel=1e-2)


def test_the_result_adds_up(tiny: Tiny, tmp_path: Path) -> None:
    result = tiny.run(tiny.float(), tmp_path)
    assert (result.steps, result.tokens) == (20, 20 * 2 * 2 * 16)
    assert result.tokens_per_second == result.tokens / result.seconds
    assert result.weights_of == 20


def test_use_best_ends_with_the_weights_of_best_also_when_resumed(tiny: Tiny, tmp_path: Path) -> None:
    options = {"val_every": 1, "use_best": True}
    modules = [tiny.quantized(20) for _ in range(4)]
    for module in modules:
        module.config = OptimizerConfig(lr=0.05, range_lr=0.05, warmup=0.0, schedule="constant")
    first = tiny.run(modules[0], tmp_path, **options)
    losses = {int(row["step"]): float(row["val/loss"]) for row in tiny.rows(tmp_path)}
    of_the_scheme = {step: losses[step] for step in range(12, 21)}
    assert first.steps == 20
    assert first.weights_of == min(of_the_scheme, key=of_the_scheme.__getitem__) < 20
    best = tiny.checkpoint(tmp_path, "best.ckpt")["state_dict"]
    assert all(torch.equal(best[name], value) for name, value in modules[0].state_dict().items())
    assert tiny.run(modules[1], tmp_path, resume=True, **options).weights_of == first.weights_of
    step = modules[2].training_step

    def training_step(batch: Any, batch_idx: int) -> Any:
        if batch_idx == 33:  # in step 17, after the best
            raise OSError("the machine has a fault")
        return step(batch, batch_idx)

    modules[2].training_step = training_step
    with pytest.raises(OSError, match="fault"):
        tiny.run(modules[2], tmp_path / "parted", **options)
    tiny.run(modules[3], tmp_path / "parted", resume=True, **options)
    for module in (modules[1], modules[3]):
        assert all(torch.equal(best[name], value) for name, value in module.state_dict().items())


def test_use_best_without_a_best_says_so(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QATModule, "at_scheme", False)
    with pytest.raises(RunError, match=r"trainer\.use_best=true and no validation loss was a number"):
        tiny.run(tiny.float(), tmp_path, max_steps=1, val_every=1, use_best=True)


def test_a_finished_run_is_not_run_again(tiny: Tiny, tmp_path: Path) -> None:
    first = tiny.run(tiny.float(), tmp_path)
    before = (tmp_path / "metrics.csv").read_text()
    module = tiny.float()
    again = tiny.run(module, tmp_path, resume=True)
    assert (again.steps, again.tokens, again.seconds) == (first.steps, first.tokens, first.seconds)
    assert (tmp_path / "metrics.csv").read_text() == before
    assert not module.model.training
    saved = tiny.checkpoint(tmp_path)["state_dict"]
    assert all(torch.equal(saved[name], value) for name, value in module.state_dict().items())


def test_a_resume_without_a_checkpoint_starts_anew(tiny: Tiny, tmp_path: Path) -> None:
    assert tiny.run(tiny.float(), tmp_path, resume=True).steps == 20


def test_the_checkpoint_of_another_model_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    tiny.run(tiny.float(), tmp_path, max_steps=4)
    with pytest.raises(InputError, match=r"another model or scheme: 'model\..*fake_quantizer.*' has shape None there"):
        tiny.run(tiny.quantized(20), tmp_path, resume=True)


def test_lightning_is_silent(
    tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.run(tiny.float(), tmp_path, max_steps=2, log_every=2)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert [line for line in captured.err.splitlines() if not line.startswith("step 2/2")] == []
    assert caplog.records == []


def test_logging_is_given_back(tiny: Tiny, tmp_path: Path) -> None:
    logger = logging.getLogger("pytorch_lightning")
    before = logger.level
    tiny.run(tiny.float(), tmp_path, max_steps=1)
    assert logger.level == before


@pytest.mark.slow
def test_a_compiled_model_learns_and_stays_as_it_was(tiny: Tiny, tmp_path: Path) -> None:
    plain, compiled = (tiny.float(model=tiny.llama(dropout=0.0)) for _ in range(2))
    tiny.run(plain, tmp_path / "plain", max_steps=3, val_every=0)
    tiny.run(compiled, tmp_path / "compiled", max_steps=3, val_every=0, compile=True)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    for a, b in zip(plain.parameters(), compiled.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
