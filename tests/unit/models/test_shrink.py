from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qat.errors import InputError
from qat.models import hf
from qat.models.loaded import LoadedModel
from qat.models.save import save_float

Load = Callable[..., LoadedModel]
IDS = torch.arange(2 * 12).view(2, 12) * 41 % 1024


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("shrink must not touch the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_runs_and_learns(any_model: LoadedModel) -> None:
    output = any_model.model(input_ids=IDS)[0]
    assert output.shape == (2, 12, 128 if any_model.task == "encoder" else 1024)
    output.square().mean().backward()
    gradients = [m.weight.grad for name, m in any_model.model.named_modules() if type(m) is nn.Linear and ".0." in name]
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_every_matrix_of_a_block_is_a_linear_layer(any_model: LoadedModel) -> None:
    blocks = next(m for m in any_model.model.modules() if isinstance(m, nn.ModuleList))
    assert len(blocks) == 2
    linears = {f"{name}.weight" for name, module in blocks.named_modules() if type(module) is nn.Linear}
    matrices = {name for name, parameter in blocks.named_parameters() if parameter.dim() == 2}
    assert linears == matrices
    assert len(linears) >= 8  # attention in and out, MLP in and out, of two blocks


def test_group_sizes_of_the_presets_divide_every_input(any_model: LoadedModel) -> None:
    linears = [module for module in any_model.model.modules() if isinstance(module, nn.Linear)]
    assert {module.in_features % 128 for module in linears} == {0}


def test_deterministic_in_the_seed_and_leaves_the_global_state(shrunk: Load) -> None:
    state = torch.get_rng_state()
    first, again, other = (shrunk("llama", seed=seed).model.state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_dtypes_start_from_the_same_numbers(shrunk: Load) -> None:
    full, half = (shrunk("llama", dtype=dtype).model for dtype in ("float32", "bfloat16"))
    assert torch.equal(full.lm_head.weight.bfloat16(), half.lm_head.weight)
    assert half.lm_head.weight is half.model.embed_tokens.weight
    assert half.model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama", {"num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True}),
        ("mistral", {"num_key_value_heads": 2, "tie_word_embeddings": False}),
        ("qwen3", {"num_key_value_heads": 2, "head_dim": 64}),  # heads wider than hidden / heads, as in full
        ("gemma", {"num_key_value_heads": 1}),
        ("gemma2", {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 256}),
        ("gemma3", {"layer_types": ["sliding_attention", "full_attention"]}),
        ("gpt2", {"n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 512, "vocab_size": 1024}),
        ("bert", {"intermediate_size": 256, "max_position_embeddings": 512, "pad_token_id": 0}),
    ],
)
def test_keeps_what_makes_the_architecture(shrunk: Load, name: str, expected: dict[str, Any]) -> None:
    config = shrunk(name).model.config.to_dict()
    assert {key: config[key] for key in expected} == expected


def test_rope_keeps_its_base_and_drops_its_scaling(shrunk: Load) -> None:
    assert shrunk("llama").model.config.rope_parameters == {"rope_type": "default", "rope_theta": 500000.0}
    rope = shrunk("gemma3").model.config.rope_parameters
    assert rope["full_attention"]["rope_theta"] != rope["sliding_attention"]["rope_theta"]
    assert shrunk("gpt_neox").model.config.rope_parameters["partial_rotary_factor"] == 0.25


@pytest.mark.parametrize(("name", "task"), [("llama", "causal_lm"), ("bert", "masked_lm"), ("minilm", "encoder")])
def test_task_follows_the_architecture(shrunk: Load, name: str, task: str) -> None:
    assert shrunk(name).task == task


def test_a_folder_is_shrunk_by_its_config_and_tokenizer(shrunk: Load, tmp_path: Path) -> None:
    save_float(shrunk("qwen3"), tmp_path / "q")
    (tmp_path / "q" / "model.safetensors").unlink()  # config and tokenizer are enough
    loaded = hf.load(str(tmp_path / "q"), shrink=True)
    assert loaded.model.config.model_type == "qwen3"
    assert loaded.name == "q-shrunk"


def test_small_contexts_stay(shrunk: Load) -> None:
    architecture = {"model_type": "llama", "max_position_embeddings": 128}
    assert hf.load("x", shrink=True, architecture=architecture).context == 128
    assert shrunk("llama").context == 512


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (None, "needs the architecture of 'x'"),
        ({"hidden_size": 64}, "no model_type"),
        ({"model_type": "lama"}, "model_type 'lama' is unknown .*llama"),
        (
            {"model_type": "llama", "num_key_value_head": 2},
            "num_key_value_head.*did you mean 'num_key_value_heads'",
        ),
        ({"model_type": "whisper"}, "whisper is an encoder-decoder"),
        ({"model_type": "llama", "hidden_size": "wide"}, "not a valid llama config.*hidden_size"),
    ],
)
def test_errors(architecture: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        hf.load("x", shrink=True, architecture=architecture)
    assert "\n" not in str(caught.value)
