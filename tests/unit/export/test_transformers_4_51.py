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


@pytest.mark.parametrize("rope_type", ["default", "linear", "dynamic", "llama3", "yarn"])
@pytest.mark.parametrize("layers", [None, ["full_attention", "full_attention"]])
def test_what_both_versions_compute_alike_is_taken(rope_type, layers):
    dialect.check({"model_type": "llama", "rope_parameters": {"rope_type": rope_type}, "layer_types": layers})
    dialect.check({"model_type": "gpt2"})


def test_a_window_in_every_layer_is_refused_too():
    with pytest.raises(InputError, match="sliding window to all layers or to none"):
        dialect.check({**LLAMA, "layer_types": ["sliding_attention", "sliding_attention"]})


def test_the_config_of_4_51_by_hand():
    rope = {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}
    values = {"model_type": "llama", "dtype": "bfloat16", "rope_parameters": rope, "transformers_version": "5.23.0"}
    made = dialect.config({**values, "use_bidirectional_attention": False, "vocab_size": 100})
    assert made == {
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.3",
        "rope_theta": 10000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "partial_rotary_factor": 0.5,
        "vocab_size": 100,
    }
    assert rope == {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}, "left as it was"


def test_the_tokenizer_config_of_4_51_by_hand():
    values = {"backend": "tokenizers", "is_local": True, "local_files_only": False, "chat_template": "old"}
    tokens = {"additional_special_tokens": ["<a>"], "extra_special_tokens": ["<b>"]}
    made = dialect.tokenizer_config({**values, **tokens, "add_prefix_space": True}, {"pre_tokenizer": None}, "new")
    assert made == {
        "additional_special_tokens": ["<a>", "<b>"],
        "chat_template": "new",
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def test_without_a_tokenizer_json_the_class_and_its_options_stay():
    values = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True, "clean_up_tokenization_spaces": True}
    values["chat_template"] = "own"
    assert dialect.tokenizer_config(values, None, None) == values
