"""Training one block after another: what is compared, what runs, and what is held."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import BertConfig, BertModel

from qat.data.masking import Masking
from qat.errors import InputError
from qat.hosts import hosts, range_parameters
from qat.prepare import prepare
from qat.schedule import PrecisionSchedule
from qat.schedule.phases.block_reconstruction import BlockReconstruction
from qat.schedule.phases.fake_quant import FakeQuant
from qat.schedule.phases.ranges_only import RangesOnly
from qat.scheme import preset
from qat.training.losses import CrossEntropy, Distill
from qat.training.module import QATModule
from qat.training.optim import OptimizerConfig, rate_factor
from qat.training.reconstruction import Reconstruction, block_names

Tiny = Any
TOKENS = torch.tensor([[1, 2, 3, 4]])
INPUTS = {"input_ids": TOKENS, "use_cache": False}


def pair(tiny: Tiny, scheme: str = "w2a16_channel") -> tuple[Any, Any]:
    teacher = tiny.llama(0.0).eval()
    model = deepcopy(teacher).train()
    prepare(model, preset(scheme))
    return model, teacher


def module_of(tiny: Tiny, phases: dict[str, Any], steps: int, loss: Any = None, **optimizer: Any) -> QATModule:
    model, teacher = pair(tiny)
    config = OptimizerConfig(**optimizer)
    return QATModule(model, loss or CrossEntropy(), config, "causal_lm", 0, PrecisionSchedule(phases, steps), teacher)


@pytest.mark.parametrize("block", [0, 1])
def test_the_error_compares_the_quantized_path_with_the_float_path(tiny: Tiny, block: int) -> None:
    model, teacher = pair(tiny)
    found = Reconstruction(model, teacher).error(block, INPUTS)
    seen = []
    for one in (model, teacher):
        handle = one.model.layers[block].register_forward_hook(lambda _, args, output: seen.append(output))
        with torch.no_grad():
            one(**INPUTS)
        handle.remove()
    assert torch.equal(found, functional.mse_loss(*seen))
    assert found > 0


def test_only_the_block_has_gradients_and_nothing_behind_it_runs(tiny: Tiny) -> None:
    model, teacher = pair(tiny)
    model.lm_head.register_forward_hook(lambda *_: pytest.fail("the head runs"))
    teacher.lm_head.register_forward_hook(lambda *_: pytest.fail("the teacher's head runs"))
    handle = model.model.layers[1].register_forward_hook(lambda *_: pytest.fail("the block behind runs"))
    blocks = Reconstruction(model, teacher)
    blocks.error(0, INPUTS).backward()
    trained = {name for name, one in model.named_parameters() if one.grad is not None}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("model.layers.0.")}
    assert any("weight_fake_quantizer" in name for name in trained)
    handle.remove()
    model.zero_grad()
    blocks.error(1, INPUTS).backward()
    assert all(name.startswith("model.layers.1.") for name, one in model.named_parameters() if one.grad is not None)
    assert all(one.grad is None for one in teacher.parameters())


def test_no_hook_stays_and_the_model_still_works(tiny: Tiny) -> None:
    model, teacher = pair(tiny)
    before = model(TOKENS).logits
    Reconstruction(model, teacher).error(1, INPUTS)
    assert torch.equal(model(TOKENS).logits, before)
    for one in (*model.modules(), *teacher.modules()):
        assert not one._forward_hooks and not one._forward_pre_hooks


def test_an_encoder_has_blocks_too() -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    teacher = BertModel(BertConfig(vocab_size=64, **shape)).eval()
    model = deepcopy(teacher)
    prepare(model, preset("w2a16_channel"))
    assert block_names(model) == ["encoder.layer.0", "encoder.layer.1"]
    blocks = Reconstruction(model, teacher)
    assert [blocks.error(block, {"input_ids": TOKENS}).item() > 0 for block in (0, 1)] == [True, True]


def test_moments_are_those_of_one_block(tiny: Tiny, tmp_path: Path) -> None:
    phases = {"first": FakeQuant(steps=2), "blocks": BlockReconstruction(steps=4), "end": RangesOnly(steps=2)}
    module, held, gradients = module_of(tiny, phases, 8, warmup=0.0), [], []
    names = {parameter: name for name, parameter in module.model.named_parameters()}
    step = module.on_before_optimizer_step

    def before(optimizer: Any) -> None:
        step(optimizer)
        gradients.append({names[one] for one in names if one.grad is not None})
        held.append({names[one] for one in optimizer.state})

    module.on_before_optimizer_step = before  # type: ignore[method-assign]
    tiny.run(module, tmp_path, max_steps=8, accumulate=1, val_every=3)
    every = set(names.values())
    of_block = [{name for name in every if f".layers.{block}." in name} for block in (0, 1)]
    ranges = {name for name, _ in range_parameters(module.model)}
    assert gradients == [every] * 2 + [of_block[0]] * 2 + [of_block[1]] * 2 + [ranges] * 2
    held.append({names[one] for one in module.trainer.optimizers[0].state})  # after the last step
    assert held == [set(), every, set(), of_block[0], set(), of_block[1], set(), ranges, ranges]


def test_finished_blocks_and_what_lies_outside_stay_as_they_are(tiny: Tiny, tmp_path: Path) -> None:
    module, seen = module_of(tiny, {"blocks": BlockReconstruction()}, 8, weight_decay=0.1), []
    start = module.on_train_batch_start

    def begin(batch: Any, batch_idx: int) -> None:
        seen.append({name: one.detach().clone() for name, one in module.model.named_parameters()})
        start(batch, batch_idx)

    module.on_train_batch_start = begin  # type: ignore[method-assign]
    tiny.run(module, tmp_path, max_steps=8, accumulate=1, val_every=0)
    seen.append(dict(module.model.named_parameters()))
    for name in seen[0]:
        moved = [not torch.equal(a[name], b[name]) for a, b in pairwise(seen)]
        part = [".layers.0." in name] * 4 + [".layers.1." in name] * 4
        assert moved == part, name


def test_it_lowers_the_error_of_each_block(tiny: Tiny, tmp_path: Path) -> None:
    module = module_of(tiny, {"blocks": BlockReconstruction()}, 40, lr=3e-3, range_lr=3e-3, warmup=0.0)
    blocks, teacher = module._blocks, module._teacher[0]
    assert blocks is not None
    tokens = {"input_ids": tiny.blocks(13, seed=0).tokens, "use_cache": False}
    before = [blocks.error(block, tokens).item() for block in (0, 1)]
    tiny.run(module, tmp_path, max_steps=40, val_every=0)
    assert [blocks.error(block, tokens).item() < 0.7 * first for block, first in enumerate(before)] == [True, True]
    with torch.no_grad():
        assert teacher(**INPUTS).logits.isfinite().all()


def test_each_block_and_the_rest_have_a_course_of_rates(tiny: Tiny, tmp_path: Path) -> None:
    phases = {"blocks": BlockReconstruction(steps=8), "end": RangesOnly(rate=0.5)}
    module = module_of(tiny, phases, 14, warmup=0.5)
    tiny.run(module, tmp_path, max_steps=14, val_every=0)
    rates = [float(row["lr/weights"]) / 1e-3 for row in tiny.rows(tmp_path)]
    of = [rate_factor(module.config, step, 4) for step in range(4)]
    assert rates == pytest.approx([*of, *of, *(0.5 * rate_factor(module.config, step, 6) for step in range(6))])


def test_ranges_only_moves_ranges_and_gives_weights_no_gradient(tiny: Tiny, tmp_path: Path) -> None:
    module = module_of(tiny, {"end": RangesOnly()}, 2, Distill(), warmup=0.0)
    before = {name: one.detach().clone() for name, one in module.model.named_parameters()}
    ranges = {name for name, _ in range_parameters(module.model)}
    tiny.run(module, tmp_path, max_steps=2, val_every=0)
    moved = {name for name, one in module.model.named_parameters() if not torch.equal(one, before[name])}
    assert moved == ranges
    assert all(one.requires_grad for one in module.model.parameters()), "given back as it came"
    host = next(iter(hosts(module.model).values()))
    assert host.weight.grad is None


def test_a_float_teacher_must_be_there(tiny: Tiny) -> None:
    model, _ = pair(tiny)
    schedule = PrecisionSchedule({"blocks": BlockReconstruction()}, 4)
    with pytest.raises(InputError, match="no float teacher was given"):
        QATModule(model, CrossEntropy(), OptimizerConfig(), "causal_lm", 0, schedule)


def test_ranges_must_be_there_to_be_trained(tiny: Tiny) -> None:
    from qat.fake_quant.minmax import MinMax

    model = tiny.llama()
    prepare(model, preset("w4a16_channel"), MinMax())
    schedule = PrecisionSchedule({"end": RangesOnly()}, 4)
    with pytest.raises(InputError, match="none is learned; set fake_quantizer=lsq"):
        QATModule(model, CrossEntropy(), OptimizerConfig(), "causal_lm", 0, schedule)


def test_the_loss_need_not_distil(tiny: Tiny, tmp_path: Path) -> None:
    """Cross-entropy end to end, as in the paper: the teacher is asked for blocks alone."""
    module = module_of(tiny, {"blocks": BlockReconstruction(steps=2), "end": RangesOnly()}, 4)
    asked: list[int] = []
    module._teacher[0].lm_head.register_forward_hook(lambda *_: asked.append(1))
    tiny.run(module, tmp_path, max_steps=4, val_every=0)
    assert asked == []


def test_a_masked_model_hides_the_same_tokens_from_both(tmp_path: Path, tiny: Tiny) -> None:
    from transformers import BertForMaskedLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    teacher = BertForMaskedLM(BertConfig(vocab_size=64, max_position_embeddings=16, **shape)).eval()
    model, seen = deepcopy(teacher), []
    prepare(model, preset("w4a16_channel"))
    for one in (model, teacher):
        one.bert.embeddings.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
        )
    masking = Masking(mask_id=1, vocab_size=64, special_ids=(0, 1))
    schedule = PrecisionSchedule({"blocks": BlockReconstruction()}, 2)
    module = QATModule(model, CrossEntropy(), OptimizerConfig(), "masked_lm", 0, schedule, teacher, masking)
    tiny.run(module, tmp_path, max_steps=2, accumulate=1, val_every=0)
    assert len(seen) == 4
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3]) and (seen[0] == 1).any()
