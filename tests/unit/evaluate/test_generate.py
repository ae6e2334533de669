from __future__ import annotations

import pytest
import torch
from support import random_llama
from transformers import LlamaForCausalLM

from qat.errors import InputError
from qat.evaluate.generate import generate
from qat.prepare import prepare
from qat.scheme import Scheme


class Letters:
    """One token a letter, ``a`` is 3."""

    eos_token_id = 2
    pad_token_id = None

    def __call__(self, text: str, *, return_tensors: str):
        return {"input_ids": torch.tensor([[ord(letter) - ord("a") + 3 for letter in text]], dtype=torch.int64)}

    def decode(self, token_ids, *, skip_special_tokens: bool) -> str:
        ids = [int(i) for i in token_ids if not (skip_special_tokens and i < 3)]
        return "".join(chr(i - 3 + ord("a")) for i in ids)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return random_llama(vocab_size=29, max_position_embeddings=16, eos_token_id=2, bos_token_id=1)


def greedy(model, prompt: str, count: int) -> str:
    """Independent of ``generate``: a full forward pass for every token, no cache."""
    ids = Letters()(prompt, return_tensors="pt")["input_ids"]
    start = ids.shape[-1]
    with torch.no_grad():
        for _ in range(count):
            ids = torch.cat([ids, model.eval()(input_ids=ids).logits[:, -1:].argmax(-1)], -1)
            if ids[0, -1] == 2:
                break
    return Letters().decode(ids[0, start:], skip_special_tokens=True)


def test_continuations_are_greedy_and_independent_of_each_other(model):
    both = generate(model, Letters(), ["abc", "hello"], max_new_tokens=6)
    assert both == [greedy(model, "abc", 6), greedy(model, "hello", 6)]
    assert generate(model, Letters(), ["hello"], max_new_tokens=6) == both[1:]


def test_a_fake_quantized_model_generates(model):
    prepared = LlamaForCausalLM(model.config)
    prepared.load_state_dict(model.state_dict())
    weights = {"num_bits": 4, "strategy": "channel"}
    inputs = {"num_bits": 8, "strategy": "token", "dynamic": True}
    prepare(prepared, Scheme({"a": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}}))
    assert generate(prepared, Letters(), ["abc"], max_new_tokens=6) == [greedy(prepared, "abc", 6)]


def test_the_train_mode_is_kept(model):
    model.train()
    generate(model, Letters(), ["abc"], max_new_tokens=1)
    assert model.training
    model.eval()


def test_bad_input_is_named(model):
    with pytest.raises(InputError, match="context of 16"):
        generate(model, Letters(), ["abcdefgh"], max_new_tokens=9)
    with pytest.raises(InputError, match="has no token"):
        generate(model, Letters(), [""])
    with pytest.raises(InputError, match="cannot generate"):
        generate(torch.nn.Linear(1, 1), Letters(), ["a"])
