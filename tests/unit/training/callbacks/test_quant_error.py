"""Quantization error and range drift."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from qat.hosts import hosts
from qat.prepare import prepare
from qat.schedule import PrecisionSchedule
from qat.schedule.phases.calibrate import Calibrate
from qat.schedule.phases.fake_quant import FakeQuant
from qat.scheme import preset
from qat.training.callbacks.quant_error import relative_change, weight_sqnr
from qat.training.losses import CrossEntropy
from qat.training.module import QATModule
from qat.training.optim import OptimizerConfig

Tiny = Any


def test_sqnr_of_a_weight_worked_out_by_hand(tiny: Tiny) -> None:
    model: LlamaForCausalLM = tiny.llama()
    prepare(model, preset("w4a16_channel"))
    name, host = next(iter(hosts(model).items()))
    with torch.no_grad():
        host.weight.fill_(1.25)
        host.weight_fake_quantizer.limit.fill_(7.0)  # a scale of 1: every weight is rounded to 1
    expected = 10 * math.log10(1.25**2 / 0.25**2)
    assert weight_sqnr(model)[f"sqnr/{name}"] == pytest.approx(expected, rel=1e-5)


def test_a_weight_on_its_grid_has_no_noise(tiny: Tiny) -> None:
    model = tiny.llama()
    prepare(model, preset("w4a16_channel"))
    name, host = next(iter(hosts(model).items()))
    with torch.no_grad():
        host.weight.fill_(3.0)
        host.weight_fake_quantizer.limit.fill_(7.0)
    assert weight_sqnr(model)[f"sqnr/{name}"] == math.inf


def test_relative_change() -> None:
    first = [torch.tensor([1.0, 3.0]), torch.tensor([-4.0])]
    assert relative_change(first, [torch.tensor([2.0, 3.0]), torch.tensor([-3.0])]) == 2 / 8
    assert relative_change([torch.zeros(2)], [torch.ones(2)]) == 0


def test_every_layer_is_logged_and_drift_starts_at_zero(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny.llama()
    prepare(model, preset("w4a16_channel"))
    schedule = PrecisionSchedule({"main": FakeQuant()}, 4)
    module = QATModule(model, CrossEntropy(), OptimizerConfig(lr=0.0, range_lr=0.0), "causal_lm", 0, schedule)
    tiny.run(module, tmp_path, max_steps=4, quant_error_every=3, val_every=0)
    rows = tiny.rows(tmp_path)
    errors = weight_sqnr(model)
    for name in hosts(model):
        assert [row[f"range_drift/{name}"] for row in rows] == ["", "", "0.0", "0.0"]
        assert [row[f"sqnr/{name}"] for row in rows] == ["", "", *[str(errors[f"sqnr/{name}"])] * 2]


def test_a_calibration_is_no_drift(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny.llama()
    prepare(model, preset("w8a8_static"))
    schedule = PrecisionSchedule({"calibrate": Calibrate(steps=2), "main": FakeQuant()}, 4)
    module = QATModule(model, CrossEntropy(), OptimizerConfig(lr=0.0, range_lr=0.0), "causal_lm", 0, schedule)
    tiny.run(module, tmp_path, max_steps=4, quant_error_every=1, val_every=0)
    drift = {key: [row[key] for row in tiny.rows(tmp_path)] for key in tiny.rows(tmp_path)[0] if "drift" in key}
    assert drift.keys() == {f"range_drift/{name}" for name in hosts(model)}
    assert all(values == ["", "", "0.0", "0.0"] for values in drift.values())


def test_a_resume_measures_from_the_first_step(tiny: Tiny, tmp_path: Path) -> None:
    for name, parts in (("whole", [20]), ("parted", [9, 20])):
        for steps in parts:
            module = tiny.quantized(20)
            tiny.run(module, tmp_path / name, max_steps=steps, resume=steps > parts[0], quant_error_every=20)
    layer = next(iter(hosts(module.model)))
    drifts = [tiny.checkpoint(tmp_path / name)["callbacks"]["QuantError"]["first"] for name in ("whole", "parted")]
    assert all(torch.equal(a, b) for a, b in zip(drifts[0][layer], drifts[1][layer], strict=True))


def test_a_float_run_logs_neither(tiny: Tiny, tmp_path: Path) -> None:
    tiny.run(tiny.float(), tmp_path, max_steps=2, quant_error_every=1, val_every=0)
    assert not [key for key in tiny.rows(tmp_path)[0] if key.startswith(("sqnr/", "range_drift/"))]
