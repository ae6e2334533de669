"""Block by block against the whole model at work: what each block sees, and what an interruption leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    AlbertConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    DistilBertConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from qat.errors import InputError
from qat.hosts import hosts, quantizers
from qat.models import conv1d
from qat.models.blocks import transformer_blocks
from qat.observers.minmax import MinMax
from qat.observers.mse import MSE
from qat.prepare import prepare
from qat.ptq.blockwise import Block, BlockwisePTQ
from qat.ptq.gptq import GPTQ
from qat.ptq.rtn import RTN
from qat.ptq.store import BlockStore
from qat.scheme import Scheme, preset

SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3, "vocab_size": 96}
LAYERED = {**SMALL, "num_key_value_heads": 1, "max_position_embeddings": 32}
GEMMA_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
CONFIGS: list[PreTrainedConfig] = [
    LlamaConfig(**LAYERED),
    MistralConfig(**LAYERED, sliding_window=4),
    Qwen3Config(**LAYERED),
    # Blocks that look at all tokens and blocks that look at a window, with rotations of their own.
    Gemma3TextConfig(**LAYERED, sliding_window=4, head_dim=16, layer_types=GEMMA_LAYERS),
    GPT2Config(vocab_size=96, n_embd=32, n_layer=3, n_head=2, n_positions=32),
    BertConfig(**SMALL, max_position_embeddings=32),
    DistilBertConfig(vocab_size=96, dim=32, hidden_dim=32, n_layers=3, n_heads=2, max_position_embeddings=32),
]
ENDS = Scheme(
    {
        "body": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "strategy": "channel"},
            "input_activations": {"num_bits": 8, "strategy": "token", "dynamic": True},
        },
        "ends": {
            "targets": ["re:.*(embed_tokens|wte|word_embeddings)"],
            "weights": {"num_bits": 8, "strategy": "channel"},
        },
    }
)
WEIGHTS = Scheme({"all": {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "channel"}}})


@dataclass(frozen=True)
class Nearest(BlockwisePTQ):
    """Rounds to nearest, and notes what it is given."""

    seen: dict[str, list[Tensor]] = field(default_factory=dict)
    groups: dict[str, list[list[str]]] = field(default_factory=dict)

    def quantize_block(self, block: Block) -> None:
        assert not block.module.training
        assert all(float(host.weight_fake_quantizer.enabled) == 0 for host in block.hosts.values())
        self.seen[block.name] = [batch.hidden.clone() for batch in block.batches]
        self.groups[block.name] = block.groups
        for host in block.hosts.values():
            host.weight_fake_quantizer.init_range(self.observer, host.weight)


def built(config: PreTrainedConfig, scheme: Scheme) -> PreTrainedModel:
    torch.manual_seed(0)
    auto = AutoModelForMaskedLM if "bert" in config.model_type else AutoModelForCausalLM
    model = auto.from_config(config).eval()
    conv1d.to_linear(model)
    prepare(model, scheme, observer=MinMax())
    return model


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_each_block_sees_what_the_quantized_model_gives_it(config: PreTrainedConfig) -> None:
    scheme = WEIGHTS if config.model_type in ("gemma3_text", "gpt2", "bert", "distilbert") else ENDS
    batches = [{"input_ids": torch.randint(96, (2, 12), generator=torch.Generator().manual_seed(i))} for i in (1, 2)]
    model = built(config, scheme)
    nearest = Nearest(MSE())
    model.train()
    nearest.run(model, batches)
    assert model.training, "the mode is put back"
    model.eval()
    expected = built(config, scheme)
    RTN(MSE()).run(expected, [])
    for (name, tensor), other in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name
    assert all(quantizer.final for quantizer in quantizers(model).values())
    given: dict[str, list[Tensor]] = {name: [] for name in transformer_blocks(expected)}
    for name, block in transformer_blocks(expected).items():
        block.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: given[name].append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
    with torch.no_grad():
        for batch in batches:
            expected(**batch)
    assert list(nearest.seen) == list(given)
    for name, tensors in given.items():
        assert all(torch.equal(a, b) for a, b in zip(nearest.seen[name], tensors, strict=True)), name


def test_layers_of_one_input_are_one_group_in_the_order_in_which_they_run(
    llama: Callable[..., LlamaForCausalLM], tokens: Tensor
) -> None:
    model = llama()
    prepare(model, preset("w4a16_g32"), observer=MinMax())
    nearest = Nearest(MinMax())
    nearest.run(model, [{"input_ids": tokens}])
    names = [["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["self_attn.o_proj"],
             ["mlp.gate_proj", "mlp.up_proj"], ["mlp.down_proj"]]  # fmt: skip
    assert nearest.groups["model.layers.1"] == [[f"model.layers.1.{name}" for name in group] for group in names]


def test_inputs_of_shows_them_with_and_without_their_rounding(
    llama: Callable[..., LlamaForCausalLM], tokens: Tensor
) -> None:
    seen: list[Tensor] = []

    @dataclass(frozen=True)
    class Looking(Nearest):
        def quantize_block(self, block: Block) -> None:
            for rounded in (False, True):
                block.inputs_of([f"{block.name}.mlp.up_proj"], lambda _, x: seen.append(x), rounded)
            up = block.hosts[f"{block.name}.mlp.up_proj"]
            assert torch.equal(seen[-1], up.activation_fake_quantizer(seen[-2]))
            assert not torch.equal(seen[-1], seen[-2])

    model = llama()
    prepare(model, preset("w4a8_channel"), observer=MinMax())
    Looking(MinMax()).run(model, [{"input_ids": tokens}])
    assert len(seen) == 4


class Stop(BaseException):
    """As a signal would."""


@pytest.mark.parametrize("after", [0, 5, 7, 12])
def test_a_run_that_was_stopped_anywhere_goes_on_to_the_same_bits(
    llama: Callable[..., LlamaForCausalLM],
    tokens: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    batches = [{"input_ids": tokens}, {"input_ids": tokens.flip(0, 1)}]
    scheme, algorithm = preset("w4a8_channel"), GPTQ(MinMax())

    def prepared() -> LlamaForCausalLM:
        model = llama()
        prepare(model, scheme, observer=MinMax())
        return model

    whole, store, done = prepared(), BlockStore(tmp_path / "blocks"), []
    algorithm.run(whole, batches)
    quantize_host = GPTQ.quantize_host

    def stopping(self: GPTQ, name: str, *args: object) -> None:
        if len(done) == after:
            raise Stop
        done.append(name)
        quantize_host(self, name, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(GPTQ, "quantize_host", stopping)
        with pytest.raises(Stop):
            algorithm.run(prepared(), batches, store)
    assert ("model.layers.0" in store) == (after >= 7)
    again: list[str] = []
    monkeypatch.setattr(GPTQ, "quantize_host", lambda s, n, *a: (again.append(n), quantize_host(s, n, *a)))
    resumed = prepared()
    algorithm.run(resumed, batches, store)
    assert len(again) == (14 if after < 7 else 7), "a finished block is not made again"
    for (name, tensor), other in zip(resumed.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name
    last = prepared()
    algorithm.run(last, batches, store)
    assert len(again) == (14 if after < 7 else 7), "nothing is left to do"
    for (name, tensor), other in zip(last.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name


def test_the_loss_is_the_relative_squared_error_of_the_blocks_output(
    llama: Callable[..., LlamaForCausalLM], tokens: Tensor, tmp_path: Path
) -> None:
    model, store = llama(), BlockStore(tmp_path)
    outputs: list[Tensor] = []

    def watch(model: LlamaForCausalLM) -> None:
        model.model.layers[0].register_forward_hook(lambda _m, _a, out: outputs.append(out))
        with torch.no_grad():
            model(tokens)

    watch(model)
    prepare(model, preset("w3a16_channel"), observer=MinMax())
    model.model.layers[0]._forward_hooks.clear()
    GPTQ(MinMax()).run(model, [{"input_ids": tokens}], store)
    watch(model)
    expected = (outputs[1] - outputs[0]).double().square().sum() / outputs[0].double().square().sum()
    assert store.loss("model.layers.0") == pytest.approx(float(expected), rel=1e-9)


def test_blocks_without_anything_to_quantize_are_only_run(
    llama: Callable[..., LlamaForCausalLM], tokens: Tensor
) -> None:
    scheme = Scheme({"all": {"targets": ["re:.*layers.1.*proj"], "weights": {"num_bits": 4, "strategy": "channel"}}})
    model, nearest = llama(), Nearest(MinMax())
    prepare(model, scheme, observer=MinMax())
    nearest.run(model, [{"input_ids": tokens}])
    assert list(nearest.seen) == ["model.layers.1"]
    assert all(name.startswith("model.layers.1.") for name in hosts(model))


def test_no_data_is_refused(llama: Callable[..., LlamaForCausalLM]) -> None:
    model = llama()
    prepare(model, preset("w4a16_g32"), observer=MinMax())
    with pytest.raises(InputError, match="GPTQ needs data; set calibration_batches to 1 or more"):
        GPTQ(MinMax()).run(model, [])


def test_blocks_that_share_their_weights_are_refused(tokens: Tensor) -> None:
    config = AlbertConfig(**SMALL, embedding_size=32, max_position_embeddings=32)
    model = built(config, WEIGHTS)
    with pytest.raises(
        InputError, match="AlbertForMaskedLM runs 3 layers with 1 blocks, so it cannot be quantized block by block"
    ):
        Nearest(MinMax()).run(model, [{"input_ids": tokens % 96}])


def test_a_layer_that_no_data_reaches_is_named(llama: Callable[..., LlamaForCausalLM], tokens: Tensor) -> None:
    model = llama()
    model.model.layers[1].spare = torch.nn.Linear(64, 64)
    prepare(model, preset("w4a16_g32"), observer=MinMax())
    with pytest.raises(
        InputError, match=r"no calibration data reached model.layers.1.spare; raise calibration_batches"
    ):
        Nearest(MinMax()).run(model, [{"input_ids": tokens}])
