"""AutoRound: what is asked of the library, and how its result is carried over; with the library itself where it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from qat import grid
from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError, RunError
from qat.fake_quant.minmax import MinMax as MinMaxQuantizer
from qat.hosts import hosts
from qat.models import conv1d
from qat.observers.minmax import MinMax
from qat.observers.mse import MSE
from qat.prepare import prepare
from qat.ptq import auto_round as module
from qat.ptq.auto_round import AutoRound
from qat.scheme import Scheme, preset

LAYER = "model.layers.0.mlp.up_proj"
Found = dict[str, Tensor]


def scheme_of(strategy: str = "channel", bits: int = 4, symmetric: bool = True, **options: Any) -> Scheme:
    weights = {"num_bits": bits, "strategy": strategy, "symmetric": symmetric}
    weights |= {"group_size": 32} if strategy == "group" else {}
    return Scheme({"all": {"targets": ["Linear"], "weights": weights}}, **options)


def prepared(llama: Callable[..., LlamaForCausalLM], scheme: Scheme, quantizer: Any = None) -> LlamaForCausalLM:
    model = llama()
    prepare(model, scheme, quantizer, MSE())
    return model


def invented(model: nn.Module, scale: float) -> Found:
    """A result with random codes for every layer, and those codes."""
    found: Found = {}
    generator = torch.Generator().manual_seed(0)
    for name, host in hosts(model).items():
        args = host.weight_fake_quantizer.args
        rows, groups = grid.group_count(tuple(host.weight.shape), args)
        count = 2**args.num_bits
        codes = torch.randint(0, count, (rows, groups, host.weight.shape[1] // groups), generator=generator)
        zero = torch.full((rows, groups), count / 2)
        if not args.symmetric:
            zero = torch.randint(0, count, (rows, groups), generator=generator).float()
        scales = torch.full((rows, groups), scale) * torch.arange(1, rows + 1)[:, None]
        values = (codes - zero[..., None]) * scales[..., None]
        found |= {
            f"{name}.weight": values.reshape(host.weight.shape),
            f"{name}.scale": scales,
            f"{name}.zero_point": zero,
        }
        found[f"{name}.codes"] = codes.reshape(host.weight.shape) - count // 2
    return found


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Found], list[Any]]:
    """``answer(found)`` makes the library give this; the list gets what it is asked."""

    def set_up(found: Found) -> list[Any]:
        asked: list[Any] = []

        def ask(model: nn.Module, tokens: Tensor, job: dict[str, Any]) -> Found:
            asked.append((tokens, job))
            return found

        monkeypatch.setattr(module, "_ask", ask)
        monkeypatch.setattr(type(module.PYTHON), "missing", lambda self: None)
        return asked

    return set_up


BATCHES = [{"input_ids": torch.arange(12).reshape(2, 6)}, {"input_ids": torch.arange(6).reshape(1, 6)}]


@pytest.mark.parametrize("strategy", ["channel", "group"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_freezing_gives_the_librarys_codes(llama, answer, capsys, strategy: str, symmetric: bool) -> None:
    scheme = scheme_of(strategy, bits=3, symmetric=symmetric)
    model = prepared(llama, scheme)
    found = invented(model, scale=2.0**-7)
    asked = answer(found)
    AutoRound(MinMax(), iters=7).run(model, BATCHES)
    [(tokens, job)] = asked
    assert torch.equal(tokens, torch.cat([batch["input_ids"] for batch in BATCHES]))
    assert job["layers"][LAYER] == {
        "bits": 3,
        "group_size": 32 if strategy == "group" else -1,
        "sym": symmetric,
        "data_type": "int_sym_gptq" if symmetric else "int_asym",
    }
    assert (job["scale_dtype"], job["options"]["iters"]) == ("bfloat16", 7)
    for name, weight in QuantizedCheckpoint.freeze(model, scheme).weights.items():
        assert torch.equal(weight.grid.codes, found[f"{name}.codes"].to(torch.int8))
        assert torch.equal(weight.grid.scale.float(), found[f"{name}.scale"])
        assert torch.equal(hosts(model)[name].weight, found[f"{name}.weight"])
    assert capsys.readouterr().err == ""


def test_scales_that_the_format_rounds_change_codes_and_it_says_so(llama, answer, capsys) -> None:
    """Powers of two: a scale of 1.5 becomes 2 (ties to even), so that 2 * 1.5 is 1.5 steps, which round to 2."""
    scheme = scheme_of(bits=4, scale_format="significand_1")
    model = prepared(llama, scheme)
    found = invented(model, scale=1.0)
    for name, host in hosts(model).items():
        codes = torch.full(host.weight.shape, 1.0)
        codes[:, :16] = 4.0
        found[f"{name}.scale"] = torch.full((len(codes), 1), 1.5)
        found[f"{name}.weight"] = codes * 1.5
    answer(found)
    AutoRound(MinMax()).run(model, BATCHES)
    weights = QuantizedCheckpoint.freeze(model, scheme).weights
    assert all(
        torch.equal(weight.grid.scale.float(), torch.full((weight.shape[0], 1), 2.0)) for weight in weights.values()
    )
    assert weights[LAYER].grid.codes[0, [0, -1]].tolist() == [3, 1]  # 4 * 1.5 / 2 and 1.5 / 2
    sizes = [host.weight.shape for host in hosts(model).values()]
    share = sum(rows * 16 for rows, _ in sizes) / sum(rows * columns for rows, columns in sizes)
    assert f"which changed {share:.2%} of its codes" in capsys.readouterr().err


@pytest.mark.parametrize(("part", "value"), [("scale", -0.5), ("zero_point", 7.0), ("weight", 1000.0)])
def test_a_result_off_the_grid_is_refused(llama, answer, part: str, value: float) -> None:
    model = prepared(llama, scheme_of())
    found = invented(model, scale=0.5)
    found[f"{LAYER}.{part}"][0, 0] = value
    answer(found)
    with pytest.raises(RunError, match=f"result for {LAYER} is not on the grid"):
        AutoRound(MinMax()).run(model, BATCHES)


@pytest.mark.parametrize(
    ("scheme", "quantizer", "words"),
    [
        (scheme_of("tensor"), None, "no strategy 'tensor'"),
        (scheme_of(bits=2, narrow_range=True), None, "no narrow range"),
        (scheme_of(), MinMaxQuantizer(), "MinMaxFakeQuantizer has no ranges; take fake_quantizer=lsq"),
    ],
)
def test_a_grid_that_it_does_not_have_is_refused(llama, answer, scheme: Scheme, quantizer: Any, words: str) -> None:
    answer({})
    with pytest.raises(InputError, match=words):
        AutoRound(MinMax()).run(prepared(llama, scheme, quantizer), BATCHES)


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "needs data; set calibration_batches"),
        ([*BATCHES, {"input_ids": torch.ones(1, 5)}], r"one length.*\[5, 6\]"),
    ],
)
def test_no_data_and_unequal_texts_are_refused(llama, answer, batches: list[Any], words: str) -> None:
    answer({})
    with pytest.raises(InputError, match=words):
        AutoRound(MinMax()).run(prepared(llama, scheme_of()), batches)


def test_a_library_that_is_not_there(llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QAT_ENGINES", str(tmp_path))
    with pytest.raises(InputError, match="which is not installed: scripts/engines.sh auto_round"):
        AutoRound(MinMax()).run(prepared(llama, scheme_of()), BATCHES)


def test_the_model_goes_there_as_transformers_stores_it(llama, tmp_path: Path) -> None:
    model, tokens = llama(), torch.arange(20)[None]
    with torch.no_grad():
        expected = model(tokens).logits
    prepare(model, scheme_of(), observer=MinMax())
    module._write_model(model, tmp_path / "model")
    assert json.loads((tmp_path / "model/config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    with torch.no_grad():
        assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "model")(tokens).logits, expected)
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50, n_positions=16))
    conv1d.to_linear(gpt2)
    prepare(gpt2, scheme_of(), observer=MinMax())
    with pytest.raises(InputError, match=r"cannot take transformer.h.0.attn.c_attn.*Conv1D"):
        module._write_model(gpt2, tmp_path / "gpt2")


@pytest.mark.slow
@pytest.mark.parametrize(
    "scheme", [Scheme(**preset("w4a16_channel").to_dict() | {"ignore": ["re:.*q_proj"]}), preset("w2a16_g32_asym")]
)
def test_the_library_beats_round_to_nearest(llama, scheme: Scheme) -> None:
    """On a random model, by the error of the first block's output, which is what it tunes."""
    if (absent := module.PYTHON.missing()) is not None:
        pytest.skip(f"AutoRound is {absent}")
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 100, (16, 32), generator=generator)
    outputs = {}
    for name in ("float", "rtn", "auto_round"):
        model = llama()
        if name != "float":
            prepare(model, scheme, observer=MinMax())
        if name == "auto_round":
            AutoRound(MinMax(), iters=100).run(model, [{"input_ids": tokens}])
            weights = QuantizedCheckpoint.freeze(model, scheme).weights
            assert all(len(torch.unique(weight.grid.codes)) > 2 for weight in weights.values())
        with torch.no_grad():
            outputs[name] = model(tokens, output_hidden_states=True).hidden_states[1]
    errors = {name: float((out - outputs["float"]).square().mean()) for name, out in outputs.items()}
    assert 0 < errors["auto_round"] < errors["rtn"]
