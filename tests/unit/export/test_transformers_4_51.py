from __future__ import annotations

import pytest

from qat.errors import InputError
from qat.export import transformers_4_51 as dialect

LLAMA = {"model_type": "llama", "dtype": "float16", "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}


def test_default_rope_has_no_scaling():
    made = dialect.config({**LLAMA, "layer_types": ["full_attention"]})
    assert (made["rope_theta"], made["rope_scaling"], made["torch_dtype"]) == (5e5, None, "float16")
    assert not {"layer_types", "rope_parameters", "dtype"} & made.keys()


def test_a_model_without_rope_gets_none():
    assert "rope_theta" not in dialect.config({"model_type": "gpt2", "dtype": "float16"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma3_text"}, "not for model_type 'gemma3_text'"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "not 'longrope'"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "mixes them"),
    ],
)
def test_what_it_cannot_say_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dialect.check({**LLAMA, **changes})


@pytest.mark.parametrize(
    "name", ["TokenizersBackend", "LlamaTokenizer", "GPT2Tokenizer", "Qwen2Tokenizer", "GemmaTokenizer"]
)
def test_every_class_becomes_the_one_that_runs_tokenizer_json_as_it_is(name):
    assert dialect.tokenizer_config({"tokenizer_class": name}, {}, None)["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_the_files_own_prefix_space_is_kept():
    fast = {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}
    assert dialect.tokenizer_config({}, fast, None)["add_prefix_space"] is True
    assert "add_prefix_space" not in dialect.tokenizer_config({"add_prefix_space": None}, {"pre_tokenizer": None}, None)


def test_a_list_of_extra_tokens_gets_its_old_name():
    made = dialect.tokenizer_config({"extra_special_tokens": ["<a>"], "backend": "tokenizers"}, {}, None)
    assert made["additional_special_tokens"] == ["<a>"]
    assert not {"extra_special_tokens", "backend"} & made.keys()
