"""What every fake quantizer, observer, phase, PTQ algorithm and loss must do."""

from __future__ import annotations

import pickle

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from support import VOCABULARY

from qat import grid
from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError
from qat.fake_quant.base import Layout
from qat.hosts import apply_state, hosts
from qat.observers import GridSpec
from qat.observers.mse import MSE
from qat.prepare import prepare
from qat.schedule import PrecisionSchedule, PrecisionState
from qat.training.losses.divergence import top_k_log_probs
from qat.training.outputs import Output

STRATEGIES = {"tensor": {}, "channel": {}, "group": {"group_size": 8}}
FORMATS = ["fp32", "bf16", "fp16", "lossless_fp16", "significand_3"]


def quantizer_for(config, bits: int, strategy: str, symmetric: bool, form: str):
    """The quantizer; None where it has no such grid, and then it must have said what to set."""
    args = QuantizationArgs(num_bits=bits, strategy=strategy, symmetric=symmetric, **STRATEGIES[strategy])
    try:
        return config.build(args, Layout(*grid.group_count((8, 16), args)), form)
    except InputError as error:
        refusal = str(error)
    assert "; set " in refusal
    return None


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("bits", range(2, 9))
def test_fake_quantizer_rounds_onto_its_grid(
    build, fake_quantizer_name: str, bits: int, strategy: str, symmetric: bool, form: str
) -> None:
    quantizer = quantizer_for(build("fake_quantizer", fake_quantizer_name), bits, strategy, symmetric, form)
    if quantizer is None:
        assert (strategy, symmetric, form) != ("channel", True, "fp32"), "every quantizer has the plainest grid"
        return
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(bits), requires_grad=True)
    quantizer.init_range(MSE(candidates=8), weight)
    out = quantizer(weight)
    frozen = quantizer.grid(weight)
    low, high = grid.qrange(bits)
    assert torch.equal(out, frozen.value())
    assert low <= frozen.codes.min() and frozen.codes.max() <= high
    assert (frozen.zero_point is None) == symmetric
    out.square().sum().backward()
    assert torch.isfinite(weight.grad).all() and weight.grad.abs().sum() > 0


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("bits", range(2, 9))
def test_fake_quantizer_leaves_out_the_lowest_code(build, fake_quantizer_name: str, bits: int, strategy: str) -> None:
    args = QuantizationArgs(num_bits=bits, strategy=strategy, **STRATEGIES[strategy])
    layout, config = (
        Layout(*grid.group_count((8, 16), args), narrow_range=True),
        build("fake_quantizer", fake_quantizer_name),
    )
    try:
        quantizer = config.build(args, layout, "fp32")
    except InputError as error:
        quantizer, refusal = None, str(error)
    if quantizer is None:
        assert "; set " in refusal
        return
    if not quantizer.narrow_range:
        with pytest.raises(InputError, match="has no narrow range; pick another"):
            prepare(
                torch.nn.Sequential(torch.nn.Linear(8, 8)),
                build("scheme", "w2a16_channel_ternary", scale_format="fp32"),
                config,
            )
        return
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(bits))
    quantizer.init_range(MSE(candidates=8), weight)
    out, codes = quantizer(weight * 3), quantizer.grid(weight * 3).codes
    assert torch.equal(out, quantizer.grid(weight * 3).value())
    assert codes.abs().max() == 2 ** (bits - 1) - 1, "clipped below as above"


def test_fake_quantizer_is_off_when_it_is_off(build, fake_quantizer_name: str) -> None:
    quantizer = quantizer_for(build("fake_quantizer", fake_quantizer_name), 4, "group", True, "fp32")
    weight = torch.randn(8, 16, requires_grad=True)
    quantizer.init_range(MSE(), weight)
    quantizer.set_precision(4, enabled=False, mix=1.0, observe=False)
    out = quantizer(weight)
    assert torch.equal(out, weight)
    out.sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))


@pytest.mark.parametrize(("symmetric", "form"), [(True, "fp32"), (False, "bf16")])
def test_fake_quantizer_survives_zeros_and_state_dict(
    build, fake_quantizer_name: str, symmetric: bool, form: str
) -> None:
    config = build("fake_quantizer", fake_quantizer_name)
    quantizer, twin = (quantizer_for(config, 3, "channel", symmetric, form) for _ in range(2))
    if quantizer is None:
        return
    weight = torch.randn(8, 16)
    weight[2] = 0.0
    quantizer.init_range(MSE(), weight)
    assert torch.equal(quantizer(weight)[2], torch.zeros(16))
    twin.load_state_dict(quantizer.state_dict())
    assert torch.equal(twin(weight), quantizer(weight))
    assert pickle.loads(pickle.dumps(config)) == config, "options are plain values"


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_observer_gives_a_range_of_the_grid(build, observer_name: str, bits: int, symmetric: bool) -> None:
    observer = build("observer", observer_name)
    spec = GridSpec(bits, symmetric, grid.scale_format("bf16", bits, symmetric))
    groups = torch.randn(4, 3, 32, generator=torch.Generator().manual_seed(0))
    groups[1, 1] = 0.0
    before = groups.clone()
    lower, upper = observer.range(groups, spec)
    assert torch.equal(groups, before), "an observer only looks"
    assert lower.shape == upper.shape == (4, 3)
    assert (lower <= 0).all() and (upper >= 0).all()
    assert (lower >= groups.abs().amax(-1).neg()).all() and (upper <= groups.abs().amax(-1)).all()
    if symmetric:
        assert torch.equal(lower, -upper)
    again = observer.range(groups * 2, spec)
    torch.testing.assert_close(again[1], upper * 2), "twice the numbers, twice the range"
    joined = observer.combine(torch.stack([upper, upper]))
    torch.testing.assert_close(joined, upper)


def test_phase_gives_states_over_its_whole_length(build, phase_name: str, llama) -> None:
    phase = build("phase", phase_name)
    prepare(llama, build("scheme", "w2a16_channel"))
    for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
        state = phase.state(progress)
        assert isinstance(state, PrecisionState)
        assert state == phase.state(progress), "a pure function"
        apply_state(llama, state)
        on = {host.weight_fake_quantizer.enabled.item() for host in hosts(llama).values()}
        assert on <= {0.0, 1.0} and (1.0 in on) == (state.weights and state.blocks > 0)


def test_phase_followed_by_fake_quant_can_be_frozen(build, phase_name: str, llama, tokens) -> None:
    """Whatever a phase does, the scheme's own grid is there at the end."""
    phases = {"first": build("phase", phase_name, steps=3, share=None), "last": build("phase", "fake_quant")}
    scheme = build("scheme", "w4a8_g32")
    schedule = PrecisionSchedule(phases, 5)
    schedule.check(scheme.weight_bits)
    prepare(llama, scheme)
    for step in range(5):
        apply_state(llama, schedule.state_at(step))
        llama(tokens)
    QuantizedCheckpoint.freeze(llama, scheme)


@pytest.mark.parametrize("name", ["w4a16_g32", "w3a16_channel", "w2a16_g32_asym", "w8a8"])
def test_ptq_leaves_a_model_that_freezes_and_works(build, ptq_name: str, name: str, llama, tokens) -> None:
    if ptq_name == "auto_round":
        pytest.skip("it runs in an environment of its own: tests/unit/ptq/test_auto_round.py")
    reference = llama(tokens).logits
    scheme = build("scheme", name)
    prepare(llama, scheme)
    algorithm, batches = build("ptq", ptq_name), [{"input_ids": tokens}]
    if ptq_name == "smoothquant" and name != "w8a8":  # it would do nothing
        with pytest.raises(InputError, match="; take ptq="):
            algorithm.run(llama, batches)
        return
    algorithm.run(llama, batches)
    assert QuantizedCheckpoint.freeze(llama, scheme).weights
    error = (llama(tokens).logits - reference).norm() / reference.norm()
    bits = scheme.weight_bits
    assert error < {8: 0.05, 4: 0.35, 3: 0.7, 2: 1.5}[bits]


def inside(loss, logits: torch.Tensor) -> Output:
    """An output with all that the loss looks at."""
    hidden = (torch.randn(2, 16, 8), torch.randn(2, 16, 8)) if loss.needs.hidden_states else ()
    projections = tuple(torch.randn(2, 16, 32) for _ in range(3)) if loss.needs.attention_of is not None else ()
    return Output(logits, hidden, projections)


def test_loss_is_finite_and_teaches(build, loss_name: str, llama, tokens) -> None:
    loss = build("loss", loss_name)
    labels = tokens.clone()
    labels[:, :4] = -100
    loss.check("causal_lm")
    logits = torch.randn(2, 16, VOCABULARY, requires_grad=True)
    batch, teacher = {"input_ids": tokens, "labels": labels}, None
    if loss.top_k is not None:
        ids, log_probs = top_k_log_probs(torch.randn(32, VOCABULARY), loss.top_k)
        batch |= {"teacher_ids": ids.view(2, 16, -1), "teacher_log_probs": log_probs.half().view(2, 16, -1)}
    elif loss.teacher is not None:
        teacher = inside(loss, torch.randn(2, 16, VOCABULARY))
    parts = loss("causal_lm", batch, inside(loss, logits), teacher)
    parts["loss"].backward()
    assert torch.isfinite(parts["loss"]) and parts["loss"].item() > 0
    assert torch.equal(logits.grad[:, :3], torch.zeros(2, 3, VOCABULARY)), "untrained positions teach nothing"
    assert torch.equal(logits.grad[:, -1], torch.zeros(2, VOCABULARY)), "nothing follows the last token"
    assert logits.grad[:, 3:-1].abs().sum() > 0


@pytest.mark.parametrize("group", ["phase", "fake_quantizer", "observer", "scheme", "loss", "export"])
def test_an_unknown_option_is_refused(build, group: str) -> None:
    name = {"phase": "fake_quant", "fake_quantizer": "lsq", "observer": "mse", "scheme": "w8a8",
            "loss": "distill", "export": "compressed_tensors"}[group]  # fmt: skip
    with pytest.raises(InputError, match="no_such_option"):
        build(group, name, no_such_option=1)
