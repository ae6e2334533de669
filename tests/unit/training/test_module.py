"""What the Lightning module derives from the step, and what it keeps to itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM, BertModel

from qat.data.masking import Masking
from qat.errors import InputError
from qat.hosts import hosts, quantizers, range_parameters
from qat.observers.minmax import MinMax
from qat.prepare import prepare
from qat.schedule import PrecisionSchedule, PrecisionState
from qat.schedule.phases.cooldown import Cooldown
from qat.schedule.phases.delayed_activations import DelayedActivations
from qat.schedule.phases.fake_quant import FakeQuant
from qat.schedule.phases.float_warmup import FloatWarmup
from qat.schedule.phases.freeze_ranges import FreezeRanges
from qat.schedule.phases.layerwise import Layerwise
from qat.scheme import preset
from qat.training.losses import CrossEntropy, Distill
from qat.training.module import QATModule
from qat.training.optim import OptimizerConfig

Tiny = Any


def _bert(kind: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return kind(BertConfig(vocab_size=64, max_position_embeddings=16, **sizes))


def test_the_teacher_is_neither_saved_nor_trained(tiny: Tiny) -> None:
    module = QATModule(tiny.llama(), Distill(), OptimizerConfig(), "causal_lm", 0, teacher=tiny.llama())
    alone = QATModule(tiny.llama(), CrossEntropy(), OptimizerConfig(), "causal_lm", 0)
    assert module.state_dict().keys() == alone.state_dict().keys()
    assert len(list(module.parameters())) == len(list(alone.parameters()))


def test_training_leaves_the_teacher_as_it_was(tiny: Tiny, tmp_path: Path) -> None:
    teacher = tiny.llama()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    module = QATModule(tiny.llama(), Distill(), OptimizerConfig(), "causal_lm", 0, teacher=teacher)
    tiny.run(module, tmp_path, max_steps=2)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert not teacher.training


def test_a_model_is_trained_with_dropout_and_returned_without(tiny: Tiny, tmp_path: Path) -> None:
    model, seen = tiny.llama().eval(), []
    module = tiny.float(model=model)
    model.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    tiny.run(module, tmp_path, max_steps=1, accumulate=1, val_every=1)
    assert seen == [True, False, False, False]  # one training batch, three of validation
    assert not model.training


def test_validation_is_the_mean_over_all_tokens(tiny: Tiny, tmp_path: Path) -> None:
    module = tiny.float(lr=0.0)
    validation = tiny.blocks(5, seed=1)  # in batches of 2, 2 and 1
    tiny.run(module, tmp_path, max_steps=1, val_every=1)
    with torch.no_grad():
        logits = module.model(validation.tokens).logits
    expected = functional.cross_entropy(logits[:, :-1].flatten(0, 1), validation.tokens[:, 1:].flatten())
    assert module.validation_loss == pytest.approx(expected.item(), abs=1e-6)


def test_a_float_run_does_what_a_plain_loop_does(tiny: Tiny, tmp_path: Path) -> None:
    module = tiny.float(model=tiny.llama(dropout=0.0), weight_decay=0.1, warmup=0.0, schedule="constant")
    tiny.run(module, tmp_path, max_steps=3, batch_size=13, accumulate=1, gradient_clip=0.5, val_every=0)

    model, blocks = tiny.llama(dropout=0.0), tiny.blocks(13, seed=0)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
    for _ in range(3):  # a batch is an epoch, whose order does not matter
        optimizer.zero_grad()
        model(input_ids=blocks.tokens, labels=blocks.tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    for ours, theirs in zip(module.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-6)


def test_accumulation_equals_one_large_batch(tiny: Tiny, tmp_path: Path) -> None:
    models = []
    for name, batch_size, accumulate in (("small", 2, 2), ("large", 4, 1)):
        module = tiny.float(model=tiny.llama(dropout=0.0))
        sizes = {"batch_size": batch_size, "accumulate": accumulate}
        tiny.run(module, tmp_path / name, max_steps=4, val_every=0, **sizes)
        models.append(module.model)
    for small, large in zip(*(model.parameters() for model in models), strict=True):
        assert torch.allclose(small, large, atol=2e-6)


def _scheduled(tiny: Tiny, schedule: PrecisionSchedule) -> QATModule:
    model = tiny.llama()
    prepare(model, preset("w4a16_channel"))
    return QATModule(model, CrossEntropy(), OptimizerConfig(warmup=0.0), "causal_lm", 0, schedule)


def test_a_frozen_phase_moves_no_range_and_ages_no_moment(tiny: Tiny, tmp_path: Path) -> None:
    module = _scheduled(tiny, PrecisionSchedule({"main": FakeQuant(steps=2), "end": FreezeRanges(steps=2)}, 4))
    ranges, seen = [parameter for _, parameter in range_parameters(module.model)], []
    module.model.register_forward_pre_hook(lambda *_: seen.append(torch.cat([r.flatten() for r in ranges]).clone()))
    tiny.run(module, tmp_path, max_steps=4, accumulate=1, val_every=0)
    after = torch.cat([r.detach().flatten() for r in ranges])
    assert [torch.equal(values, after) for values in seen] == [False, False, True, True]
    optimizer = tiny.checkpoint(tmp_path)["optimizer_states"][0]
    steps = {
        group["name"]: {int(optimizer["state"][index]["step"]) for index in group["params"]}
        for group in optimizer["param_groups"]
    }
    assert steps == {"weights": {4}, "weights_no_decay": {4}, "ranges": {2}}


IDLE = {
    "float_warmup": (FloatWarmup(steps=2), ["weight", "activation"]),
    "delayed_activations": (DelayedActivations(steps=4), ["activation"]),
    "layerwise": (Layerwise(steps=4), ["layers.1."]),
}


@pytest.mark.parametrize("kind", IDLE)
def test_ranges_that_are_not_in_use_age_no_moment(tiny: Tiny, tmp_path: Path, kind: str) -> None:
    """In their first two steps these phases have some fake quantizers off."""
    phase, off = IDLE[kind]
    model = tiny.llama()
    prepare(model, preset("w8a8_static"))
    for quantizer in quantizers(model).values():
        if quantizer.activation:
            quantizer.init_range(MinMax(), torch.randn(4, 32))
    schedule = PrecisionSchedule({"first": phase, "main": FakeQuant()}, 6)
    module = QATModule(model, CrossEntropy(), OptimizerConfig(warmup=0.0), "causal_lm", 0, schedule)
    ranges = dict(range_parameters(model))
    before, seen = {name: one.detach().clone() for name, one in ranges.items()}, []
    model.register_forward_pre_hook(lambda *_: seen.append({n: p.detach().clone() for n, p in ranges.items()}))
    tiny.run(module, tmp_path, max_steps=6, accumulate=1, val_every=0)
    ages = {name: int(module.trainer.optimizers[0].state[one]["step"]) for name, one in ranges.items()}
    idle = {name for name in ranges if any(part in name for part in off)}
    assert idle
    for name in ranges:
        assert ages[name] == (4 if name in idle else 6), name
        assert torch.equal(seen[2][name], before[name]) == (name in idle), name


def test_the_state_of_each_step_is_in_force(tiny: Tiny, tmp_path: Path) -> None:
    module, seen = tiny.quantized(20), []
    layer = next(iter(hosts(module.model).values()))
    layer.register_forward_hook(lambda *_: seen.append(_of(layer)) if module.training else None)

    def _of(layer: Any) -> tuple[bool, float]:
        return bool(layer.weight_fake_quantizer.enabled), float(layer.weight_fake_quantizer.qmax)

    tiny.run(module, tmp_path, val_every=0)
    assert module.schedule is not None
    states = [module.schedule.state_at(step) for step in range(20)]
    bits = [max(4, state.weight_bits or 4) for state in states]
    expected = [(state.weights, 2.0 ** (b - 1) - 1) for state, b in zip(states, bits, strict=True)]
    assert seen == [pair for pair in expected for _ in range(2)]  # two micro-batches a step


def test_the_schedule_scales_the_rate(tiny: Tiny, tmp_path: Path) -> None:
    cooldown = Cooldown(steps=2)
    schedule = PrecisionSchedule({"main": FakeQuant(), "end": cooldown}, 4)
    module = _scheduled(tiny, schedule)
    module.config = OptimizerConfig(lr=1e-3, warmup=0.0, schedule="constant")
    tiny.run(module, tmp_path, max_steps=4)
    rates = [float(row["lr/weights"]) for row in tiny.rows(tmp_path)]
    assert rates == pytest.approx([1e-3 * schedule.state_at(step).lr_scale for step in range(4)])
    assert rates[0] == 1e-3 > rates[-1]


def test_observers_do_not_see_validation_data(tiny: Tiny) -> None:
    module = _scheduled(tiny, PrecisionSchedule({"main": FakeQuant()}, 1))
    module.apply_precision(PrecisionState("calibrate", observe=True))
    observing = [host.weight_fake_quantizer for host in hosts(module.model).values()]
    assert all(quantizer.observe == 1 for quantizer in observing)
    module.on_validation_start()
    assert all(quantizer.observe == 0 for quantizer in observing)


def test_masked_lm_trains_and_validates_on_the_same_masks(tmp_path: Path, tiny: Tiny) -> None:
    masking = Masking(mask_id=1, vocab_size=64, special_ids=(0, 1))
    losses = []
    for name in ("first", "second"):
        config = OptimizerConfig(lr=0.0)
        module = QATModule(_bert(BertForMaskedLM), CrossEntropy(), config, "masked_lm", 0, masking=masking)
        tiny.run(module, tmp_path / name, max_steps=4, val_every=2)
        rows = tiny.rows(tmp_path / name)
        losses.append([[row[f"{split}/loss"] for row in rows if row[f"{split}/loss"]] for split in ("val", "train")])
    assert losses[0] == losses[1]
    assert [len(set(values)) for values in losses[0]] == [1, 4]  # no rate: only each training step has its own masks
    assert len(losses[0][0]) == 2


def test_an_encoder_learns_its_teachers_states(tmp_path: Path, tiny: Tiny) -> None:
    teacher, model = _bert(BertModel), _bert(BertModel)
    torch.nn.init.normal_(model.embeddings.word_embeddings.weight)
    module = QATModule(model, Distill(), OptimizerConfig(lr=1e-2), "encoder", 0, teacher=teacher)
    tiny.run(module, tmp_path, max_steps=10, val_every=1)
    values = [float(row["val/loss"]) for row in tiny.rows(tmp_path)]
    assert values[-1] < values[0]
    assert module.validation_loss == values[-1]
    assert "val/perplexity" not in tiny.rows(tmp_path)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": Distill()}, "needs a float teacher"),
        ({"task": "masked_lm"}, "mask token"),
        ({"task": "encoder"}, "loss=distill"),
    ],
)
def test_what_does_not_fit_is_refused(tiny: Tiny, arguments: dict[str, Any], message: str) -> None:
    given = {"loss": CrossEntropy(), "task": "causal_lm", **arguments}
    with pytest.raises(InputError, match=message):
        QATModule(tiny.llama(), given["loss"], OptimizerConfig(), given["task"], 0)


def test_sixteen_bit_weights_are_refused(tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r"bfloat16.*set model\.dtype=float32"):
        tiny.float(model=tiny.llama().bfloat16())


def test_neighbouring_seeds_share_no_batch_seed(tiny: Tiny) -> None:
    module = tiny.float()
    seeds = []
    for seed in (0, 1, 2):
        module.seed = seed
        seeds += [module._batch_seed(index) for index in range(1000)]
    assert len(set(seeds)) == 3000


def test_bits_and_phase_of_the_state(tiny: Tiny) -> None:
    module = tiny.quantized(20)
    for step, phase, bits in ((0, 0, 32), (3, 1, 8), (8, 1, 6), (15, 1, 4), (19, 2, 4)):
        module.apply_precision(module.schedule.state_at(step))
        assert module.precision() == {"phase": phase, "bits": bits}


def test_a_float_model_has_no_precision_to_show(tiny: Tiny) -> None:
    assert tiny.float().precision() == {}
