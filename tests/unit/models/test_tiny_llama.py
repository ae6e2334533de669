from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM

from qat.errors import InputError
from qat.models import tiny_llama

TEXTS = [
    "def add(a, b):\n    return a + b\n",
    "class Café:\n\tname = '日本語 🙂'  # naïve\r\n",
    "x = [0, 1, 23, 456]\n\n\n        if x:  \n            pass",
    " leading, trailing  and   inner spaces  ",
    "\x00\x07\ufeff\u200b",
    "",
]


def test_size_and_shape() -> None:
    loaded = tiny_llama.load(pretrained=False)
    # embedding + 3 * (q, k, v, o + gate, up, down + two norms) + final norm; the head is the embedding
    attention, mlp = 128 * 128 * 2 + 128 * 64 * 2, 3 * 128 * 384
    expected = 1024 * 128 + 3 * (attention + mlp + 2 * 128) + 128
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == expected == 721_792
    assert isinstance(loaded.model, LlamaForCausalLM)
    assert (loaded.name, loaded.task, loaded.context) == ("tiny_llama", "causal_lm", 512)
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    assert len(loaded.tokenizer) == loaded.model.config.vocab_size


def test_fresh_weights_depend_on_the_seed_only() -> None:
    state = torch.get_rng_state()
    first = tiny_llama.load(pretrained=False, seed=1).model.lm_head.weight
    torch.manual_seed(99)
    again = tiny_llama.load(pretrained=False, seed=1).model.lm_head.weight
    other = tiny_llama.load(pretrained=False, seed=2).model.lm_head.weight
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.set_rng_state(state)
    tiny_llama.load(pretrained=False, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_gradient_checkpointing_of_fresh_weights() -> None:
    model = tiny_llama.load(pretrained=False, gradient_checkpointing=True).model
    assert model.is_activation_checkpointing


def test_shipped_config_is_the_one_of_the_code() -> None:
    shipped = type(tiny_llama.config()).from_pretrained(tiny_llama.directory())
    ignored = {"name_or_path", "_name_or_path", "transformers_version"}
    assert {k: v for k, v in shipped.to_dict().items() if k not in ignored} == {
        k: v for k, v in tiny_llama.config().to_dict().items() if k not in ignored
    }


def test_missing_weights_name_the_command_that_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_llama, "directory", lambda: tmp_path)
    with pytest.raises(InputError, match="qat train recipe=demo/base"):
        tiny_llama.load()


def test_shipped_weights_load() -> None:
    path = tiny_llama.directory() / "model.safetensors"
    if not path.is_file():
        pytest.skip(f"needs the trained weights {path}")
    assert path.stat().st_size <= 3_000_000
    loaded = tiny_llama.load(dtype="bfloat16")
    stored = load_file(path)
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert all(torch.equal(loaded.model.state_dict()[name], tensor) for name, tensor in stored.items())
    assert loaded.name == "tiny_llama"


@pytest.mark.parametrize("text", TEXTS)
def test_tokenizer_round_trips(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama.directory())
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos_token_id not in ids  # no special token unless asked for


def test_tokenizer_knows_every_byte_and_the_end() -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama.directory())
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 0, 0)
    assert tokenizer.decode([0]) == "<|endoftext|>"
    assert tokenizer("<|endoftext|>")["input_ids"] == [0]
    assert all(len(tokenizer(chr(code))["input_ids"]) == 1 for code in range(128))


def test_tokenizer_compresses_code() -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama.directory())
    text = Path(sys.modules["json.decoder"].__file__ or "").read_text()
    assert len(text.encode()) / len(tokenizer(text)["input_ids"]) > 2.3
    assert len(tokenizer("\n" + " " * 7)["input_ids"]) == 2  # indentation is one token
    assert len(tokenizer("2048")["input_ids"]) == 4  # digits are single


def test_training_the_tokenizer_is_deterministic_and_covers_unseen_text() -> None:
    first, again = (tiny_llama.train_tokenizer(iter(TEXTS * 20), vocabulary=300) for _ in range(2))
    assert first.get_vocab() == again.get_vocab()
    assert first.backend_tokenizer.to_str() == again.backend_tokenizer.to_str()
    assert len(first) == 300
    assert first.decode(first("Ελληνικά ≠ seen")["input_ids"]) == "Ελληνικά ≠ seen"
