"""Rules 1 to 8, each on a good folder and on one that is broken in one place."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from qat.deploy.bedrock.rules import size
from qat.deploy.bedrock.rules.architecture import MODEL_TYPES
from qat.tensor_files import INDEX, SINGLE

HEADER = {"format": "pt"}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
NOT_GIVEN = {"10.trust", "10.permissions"}  # the role's policies lie in AWS


@pytest.fixture
def weights(good):
    """``weights(change)``: rewrite the weights and their index after ``change(tensors)``."""

    def rewrite(change):
        tensors = load_file(good / SINGLE)
        change(tensors)
        save_file(tensors, good / SINGLE, HEADER)
        write_index(good, dict.fromkeys(tensors, SINGLE), sum(t.nbytes for t in tensors.values()))

    return rewrite


def write_index(folder, weight_map, total_size, **metadata):
    content = {"metadata": {"total_size": total_size, **metadata}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(content))


def split(folder):
    """The weights in two files; the names in each."""
    tensors = load_file(folder / SINGLE)
    names = sorted(tensors)
    parts = {"a.safetensors": names[:10], "b.safetensors": names[10:]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / file, HEADER)
    (folder / SINGLE).unlink()
    write_index(folder, {n: f for f, held in parts.items() for n in held}, sum(t.nbytes for t in tensors.values()))
    return parts


def test_every_rule_passes_on_what_prepare_writes(good, given):
    checks = given.preflight(good).checks
    assert {check.rule.split(".")[1] for check in checks} == {str(number) for number in range(1, 11)}
    assert len({check.rule for check in checks}) == len(checks)
    others = {check.rule.removeprefix("bedrock."): check.found for check in checks if check.status != "pass"}
    assert set(others) == NOT_GIVEN | {"7.logits"}
    assert others["7.logits"] == "switched off"


# Rule 1


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_1_architectures(found, good, edit, kind):
    edit("config.json", model_type=kind)
    assert found(good, "1.architecture").status == "pass"


def test_1_another_architecture(found, good, edit):
    edit("config.json", model_type="gemma")
    check = found(good, "1.architecture")
    assert (check.status, check.found) == ("fail", "model_type gemma")


@pytest.mark.parametrize(
    ("kind", "classes", "status"),
    [
        ("qwen3", ["Qwen3ForCausalLM"], "pass"),
        ("qwen3_moe", ["Qwen3MoeForCausalLM"], "pass"),
        ("qwen3", ["Qwen3ForSequenceClassification"], "fail"),
        ("llama", [], "fail"),
        ("llama", ["A", "B"], "fail"),
    ],
)
def test_1_class(found, good, edit, kind, classes, status):
    edit("config.json", model_type=kind, architectures=classes)
    assert found(good, "1.class").status == status


@pytest.mark.parametrize(("region", "status"), [("us-east-1", "pass"), ("us-west-2", "fail")])
def test_1_region_of_gpt_oss(found, good, edit, given, region, status):
    edit("config.json", model_type="gpt_oss")
    assert found(good, "1.gpt_oss_region", replace(given, region=region)).status == status


@pytest.mark.parametrize(
    ("stops", "status"), [([200002, 199999, 200012], "pass"), ([200002, 199999], "fail"), (200002, "fail")]
)
def test_1_stop_tokens_of_gpt_oss(found, good, edit, stops, status):
    edit("config.json", model_type="gpt_oss", eos_token_id=[200002, 199999, 200012])
    edit("generation_config.json", eos_token_id=stops)  # it is what generates
    assert found(good, "1.gpt_oss_stops").status == status


# Rule 2


@pytest.mark.parametrize(
    ("dtype", "status"),
    [
        (torch.bfloat16, "pass"),
        (torch.float32, "warn"),
        (torch.int8, "fail"),
        (torch.uint8, "fail"),
        (torch.int32, "fail"),
        (torch.float8_e4m3fn, "fail"),
        (torch.float64, "fail"),
    ],
)
def test_2_dtypes(found, good, weights, dtype, status):
    weights(lambda tensors: tensors.update({"model.norm.weight": torch.ones(128).to(dtype)}))
    assert found(good, "2.dtypes").status == status


@pytest.mark.parametrize("ending", ["weight_scale", "weight_packed", "weight_zero_point", "qweight", "qzeros", "g_idx"])
def test_2_names(found, good, weights, ending):
    name = f"model.layers.0.mlp.up_proj.{ending}"
    weights(lambda tensors: tensors.update({name: torch.ones(1, dtype=torch.float16)}))
    check = found(good, "2.names")
    assert (check.status, check.found) == ("fail", name)


@pytest.mark.parametrize("place", [{"quantization_config": {}}, {"text_config": {"quantization_config": {"a": 1}}}])
def test_2_config(found, good, edit, place):
    edit("config.json", **place)
    assert found(good, "2.config").status == "fail"


def test_2_the_packed_checkpoint_is_refused(found, prepared):
    failed = {rule for rule in ("2.dtypes", "2.names", "2.config") if found(prepared / "packed", rule).status == "fail"}
    assert failed == {"2.dtypes", "2.names", "2.config"}


# Rule 3


def huge(folder, gigabytes):
    """A sparse file: its header alone says what it holds."""
    count = gigabytes * 10**9 // 2
    header = json.dumps({"w": {"dtype": "F16", "shape": [count], "data_offsets": [0, 2 * count]}}).encode()
    with (folder / SINGLE).open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * count)


@pytest.mark.parametrize(
    ("kind", "gigabytes", "status"),
    [("llama", 199, "pass"), ("llama", 200, "fail"), ("mllama", 99, "pass"), ("qwen2_vl", 100, "fail")],
)
def test_3_size_is_read_from_the_headers(found, good, edit, kind, gigabytes, status):
    huge(good, gigabytes)
    edit("config.json", model_type=kind)
    assert found(good, "3.size").status == status


@pytest.mark.parametrize(("length", "status"), [(131071, "pass"), (131072, "warn"), (131073, "fail"), ("x", "not_run")])
@pytest.mark.parametrize("key", ["max_position_embeddings", "n_positions"])
def test_3_context(found, good, edit, key, length, status):
    edit("config.json", **({"max_position_embeddings": None} | {key: length}))
    assert found(good, "3.context").status == status


def test_3_context_of_the_text_of_a_multimodal_model(found, good, edit):
    edit("config.json", max_position_embeddings=None, text_config={"max_position_embeddings": size.CONTEXT + 1})
    assert found(good, "3.context").status == "fail"


def test_3_t5_has_no_limit(found, good, edit):
    edit("config.json", model_type="t5", max_position_embeddings=None)
    assert found(good, "3.context").status == "pass"


# Rule 4


def test_4_two_files(found, good):
    split(good)
    assert {found(good, rule).status for rule in ("4.index", "4.metadata", "4.shards")} == {"pass"}


def test_4_no_index(found, good):
    (good / INDEX).unlink()
    assert found(good, "4.index").status == "warn"
    split(good)
    (good / INDEX).unlink()
    assert found(good, "4.index").status == "fail"
    assert found(good, "4.shards").status == "not_run"


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": {}}', '{"weight_map": [1]}'])
def test_4_broken_index(found, good, content):
    (good / INDEX).write_text(content)
    assert found(good, "4.index").status == "fail"
    assert found(good, "4.shards").status == "fail"


@pytest.mark.parametrize(
    ("metadata", "status"),
    [
        (None, "fail"),
        ({}, "fail"),
        ({"total_size": 1443584, "total_parameters": 721792}, "fail"),
        ({"total_size": 5}, "warn"),
        ({"total_size": 1443584}, "pass"),
    ],
)
def test_4_metadata(found, good, edit, metadata, status):
    edit(INDEX, metadata=metadata)
    assert found(good, "4.metadata").status == status


def test_4_a_file_that_is_not_there(found, good):
    split(good)
    (good / "b.safetensors").unlink()
    assert found(good, "4.shards").found == "missing: b.safetensors"
    assert found(good, "4.shards").status == "fail"


def test_4_a_path_out_of_the_folder(found, good):
    write_index(good, {"x": "../import/model.safetensors"}, 1443584)
    assert found(good, "4.shards").status == "fail"


def test_4_a_tensor_that_the_index_forgot(found, good):
    parts = split(good)
    write_index(good, {n: f for f, held in parts.items() for n in held[1:]}, 1443584)
    assert found(good, "4.shards").status == "fail"
    assert found(good, "4.shards").found.startswith("not in the index: ")


def test_4_a_tensor_in_the_other_file(found, good):
    parts = split(good)
    held = {n: f for f, names in parts.items() for n in names}
    write_index(good, held | {parts["a.safetensors"][0]: "b.safetensors"}, 1443584)
    assert found(good, "4.shards").found.startswith("not in the file that the index names: ")


def test_4_a_tensor_in_two_files(found, good):
    parts = split(good)
    twice = load_file(good / "a.safetensors")
    twice[parts["b.safetensors"][0]] = torch.zeros(1)
    save_file(twice, good / "a.safetensors", HEADER)
    assert found(good, "4.shards").found == f"in two files: {parts['b.safetensors'][0]}"


def test_4_a_damaged_file(found, good):
    whole = (good / SINGLE).read_bytes()
    (good / SINGLE).write_bytes(whole[:-1])
    assert found(good, "4.shards").status == "fail"
    assert found(good, "2.dtypes").status == "not_run"
    assert "model.safetensors is damaged" in found(good, "2.dtypes").found
    (good / INDEX).unlink()
    assert found(good, "4.shards").status == "fail"


@pytest.mark.parametrize(
    ("rule", "file", "values"),
    [
        ("1.class", "config.json", {"architectures": [None]}),
        ("4.shards", INDEX, {"weight_map": {"a": None}}),
        ("4.index", INDEX, {"weight_map": {"a": ["b"]}}),
    ],
)
def test_values_of_another_kind_fail(found, good, edit, rule, file, values):
    edit(file, **values)
    assert found(good, rule).status == "fail"


# Rule 5


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json", SINGLE])
def test_5_files(found, good, name):
    (good / name).unlink()
    assert found(good, "5.files").status == "fail"


def test_5_a_file_that_is_no_json(found, good):
    (good / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1")
    check = found(good, "5.files")
    assert check.status == "fail" and check.found.startswith("tokenizer.json is not JSON")


@pytest.mark.parametrize("kind", ["T5", "Llama", "CodeLlama", "GPT2", "GPTNeoX", "PreTrained", "Qwen2"])
@pytest.mark.parametrize("ending", ["Tokenizer", "TokenizerFast"])
def test_5_tokenizer_classes(found, good, edit, kind, ending):
    edit("tokenizer_config.json", tokenizer_class=kind + ending)
    assert found(good, "5.tokenizer_class").status == "pass"


@pytest.mark.parametrize("name", ["TokenizersBackend", "GemmaTokenizer", "LlamaTokenizers", None])
def test_5_other_tokenizer_classes(found, good, edit, name):
    edit("tokenizer_config.json", tokenizer_class=name)
    assert found(good, "5.tokenizer_class").status == "fail"


@pytest.mark.parametrize(("name", "file"), [("LlamaTokenizer", "tokenizer.model"), ("T5Tokenizer", "spiece.model")])
def test_5_sentencepiece(found, good, edit, name, file):
    edit("tokenizer_config.json", tokenizer_class=name)
    assert found(good, "5.sentencepiece").status == "warn"
    (good / file).write_bytes(b"")
    assert found(good, "5.sentencepiece").status == "pass"


# Rule 6


@pytest.mark.parametrize(
    ("template", "status"),
    [
        ("{{ messages }}", "pass"),
        ([{"name": "default", "template": "{{ messages }}"}], "pass"),
        (None, "warn"),
        ([{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}], "fail"),
        ({"default": "a"}, "fail"),
    ],
)
def test_6_embedded(found, good, edit, template, status):
    edit("tokenizer_config.json", chat_template=template)
    assert found(good, "6.chat_template").status == status


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json", "additional_chat_templates/rag.jinja"])
@pytest.mark.parametrize("embedded", ["{{ messages }}", None])
def test_6_a_file_overrides(found, good, edit, name, embedded):
    edit("tokenizer_config.json", chat_template=embedded)
    (good / name).parent.mkdir(exist_ok=True)
    (good / name).write_text("{{ messages }}")
    assert found(good, "6.chat_template").status == "fail"


# Rule 7 (its logits: test_parity.py)


@pytest.mark.parametrize("place", [{}, {"text_config": {}}])
def test_7_rope(found, good, edit, place):
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    edit("config.json", **(dict.fromkeys(place, rope) or rope))
    check = found(good, "7.rope")
    assert check.status == "fail" and check.found.endswith("rope_parameters")


@pytest.mark.parametrize("changes", [{"dtype": "float16"}, {"torch_dtype": None}])
def test_7_dtype(found, good, edit, changes):
    edit("config.json", **changes)
    assert found(good, "7.dtype").status == "fail"


# Rule 8


@pytest.mark.parametrize(
    "name",
    [
        "adapter_config.json",
        "adapter_model.safetensors",
        "pytorch_model.bin",
        "optimizer.pt",
        "training_args.bin",
        "model.tar.gz",
        "model.tar",
        "model.tgz",
        "last.ckpt",
        "checkpoint-100/config.json",
        "logs/rng_state.pth",
    ],
)
def test_8_leftovers(found, good, name):
    (good / name).parent.mkdir(exist_ok=True)
    (good / name).write_bytes(b"")
    check = found(good, "8.leftovers")
    assert (check.status, check.found) == ("fail", name)


@pytest.mark.parametrize(
    "name", ["model.layers.0.mlp.up_proj.lora_A.weight", "base_model.model.model.layers.0.mlp.up_proj.weight"]
)
def test_8_merged(found, good, weights, name):
    weights(lambda tensors: tensors.update({name: torch.ones(1, dtype=torch.float16)}))
    assert found(good, "8.merged").status == "fail"


def test_8_head(found, good, edit, weights):
    for tied in (False, None):  # a Llama that does not say is not tied
        edit("config.json", tie_word_embeddings=tied)
        assert found(good, "8.head").status == "fail"
    weights(lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    assert found(good, "8.head").found == "lm_head.weight"


def test_8_head_is_tied_by_default_in_gpt_bigcode(found, good, edit):
    edit("config.json", model_type="gpt_bigcode", tie_word_embeddings=None)
    assert found(good, "8.head").status == "pass"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "pass"),
        ({"factor": 32.0}, "fail"),
        ({"low_freq_factor": 2.0}, "fail"),
        ({"high_freq_factor": 8.0}, "fail"),
        ({"original_max_position_embeddings": 4096}, "fail"),
        ({"rope_type": "linear", "factor": 2.0}, "pass"),
        ({"rope_type": None, "type": "llama3", "factor": 32.0}, "fail"),
    ],
)
def test_8_llama3_scaling(found, good, edit, changes, status):
    edit("config.json", rope_scaling=LLAMA3 | changes)
    assert found(good, "8.llama3_rope").status == status


# What cannot be read


def test_without_a_config_nothing_that_reads_it_passes(good, given):
    (good / "config.json").write_text("{")
    passed = {check.rule.split(".")[1] for check in given.preflight(good).of("pass")}
    failed = {check.rule for check in given.preflight(good).failed}
    assert not passed & {"1", "3", "7"}
    assert failed == {"bedrock.5.files"}
