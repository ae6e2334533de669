from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import random_llama
from torchao.core.config import config_from_dict
from torchao.quantization import (
    FqnToConfig,
    Int8DynamicActivationInt8WeightConfig,
    IntxWeightOnlyConfig,
    PerAxis,
    PerGroup,
)
from torchao.quantization.quant_primitives import MappingType
from transformers import AutoModelForCausalLM

from qat.checkpoint import QuantizedCheckpoint
from qat.engines.torchao import TorchaoEngine
from qat.errors import InputError, RunError
from qat.evaluate.parity import Parity, parity
from qat.export.torchao import TorchaoExporter
from qat.observers.minmax import MinMax
from qat.prepare import prepare
from qat.ptq.calibrate import calibrate
from qat.restore import restore
from qat.scheme import Scheme
from qat.tensor_files import TensorFolder

TOKENS = torch.arange(24).reshape(2, 12)
TOKEN = {"num_bits": 8, "strategy": "token", "dynamic": True}


def frozen(targets=("Linear",), inputs=None, rest=torch.float32, **weights) -> QuantizedCheckpoint:
    scheme = Scheme({"all": {"targets": list(targets), "weights": weights, "input_activations": inputs}})
    model = random_llama()
    prepare(model, scheme)
    calibrate(model, [{"input_ids": TOKENS}], MinMax())
    return QuantizedCheckpoint.freeze(model, scheme, rest_dtype=rest)


WEIGHTS = [
    {"num_bits": 2, "strategy": "group", "group_size": 32, "symmetric": False},
    {"num_bits": 3, "strategy": "channel"},
    {"num_bits": 4, "strategy": "group", "group_size": 32},
    {"num_bits": 8, "strategy": "tensor"},
    {"num_bits": 8, "strategy": "channel", "targets": ("Linear", "Embedding")},
]


@pytest.mark.parametrize("rest", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda w: f"{w['num_bits']}-{w['strategy']}")
def test_weight_only_is_exact_in_the_file_and_in_the_engine(tmp_path, weights, rest):
    made, exporter, engine = frozen(rest=rest, **weights), TorchaoExporter(), TorchaoEngine()
    exporter.write(made, tmp_path / "out")
    assert parity(made, exporter.read(tmp_path / "out")).exact
    tensors = load_file(tmp_path / "out/model.safetensors")
    assert exporter.weight_bytes(made) == sum(tensor.nbytes for tensor in tensors.values())
    engine.load(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(engine.logits(TOKENS), restore(made)(TOKENS).logits)


@pytest.mark.parametrize("bits", [4, 8])
def test_plain_from_pretrained_gives_the_integer_product_with_the_learned_scales(tmp_path, bits):
    made = frozen(num_bits=bits, strategy="channel", inputs=TOKEN)
    TorchaoExporter().write(made, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, entry in made.weights.items():
        weight = model.get_submodule(name).weight
        assert type(weight).__name__ == "Int8Tensor"
        assert torch.equal(weight.qdata, entry.grid.codes)
        assert torch.equal(weight.scale, entry.grid.scale.float())


def test_every_module_keeps_its_own_scheme_over_several_files(tmp_path):
    """Integer products, grouped weights and an embedding in one model; the header of each shard explains them all."""
    scheme = Scheme(
        {
            "mlp": {"targets": ["re:.*mlp.*"], "weights": WEIGHTS[2]},
            "attention": {
                "targets": ["re:.*self_attn.*"],
                "weights": {"num_bits": 8, "strategy": "channel"},
                "input_activations": TOKEN,
            },
            "embedding": {"targets": ["Embedding"], "weights": {"num_bits": 8, "strategy": "channel"}},
        }
    )
    model = random_llama()
    prepare(model, scheme)
    made, exporter = QuantizedCheckpoint.freeze(model, scheme), TorchaoExporter(max_shard_size="20KB")
    exporter.write(made, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    assert parity(made, exporter.read(tmp_path / "out")) == Parity(15, 0, 0, 0)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    kinds = {name: type(loaded.get_submodule(name).weight).__name__ for name in made.weights}
    assert kinds == {name: "Int8Tensor" if "attn" in name else "IntxUnpackedToInt8Tensor" for name in made.weights}
    assert torch.equal(loaded.model.embed_tokens.weight.qdata, made.weights["model.embed_tokens"].grid.codes)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_parity_sees_what_was_altered(tmp_path):
    made, exporter = frozen(num_bits=4, strategy="group", group_size=32, symmetric=False), TorchaoExporter()
    exporter.write(made, tmp_path / "out")
    path = tmp_path / "out/model.safetensors"
    tensors, metadata = load_file(path), TensorFolder(tmp_path / "out").metadata
    name = "model.layers.0.self_attn.q_proj._weight_"
    tensors[f"{name}qdata"][0, :3] ^= 1
    tensors[f"{name}zero_point"][0, :2] ^= 1
    tensors[f"{name}scale"][0, 0] *= 2
    save_file(tensors, path, metadata)
    assert parity(made, exporter.read(tmp_path / "out")) == Parity(14, 3, 2, 1)
    save_file({key: tensor for key, tensor in tensors.items() if key != f"{name}scale"}, path, metadata)
    with pytest.raises(InputError, match=f"model.safetensors lacks {name}scale"):
        parity(made, exporter.read(tmp_path / "out"))
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(InputError, match="was not written by the format torchao"):
        exporter.read(tmp_path / "out")


@pytest.mark.parametrize(
    ("inputs", "weights", "reason"),
    [
        ({"num_bits": 8, "strategy": "tensor", "dynamic": False}, {"strategy": "channel"}, "static activation"),
        (TOKEN, {"strategy": "group", "group_size": 32}, "one scale a channel"),
        (TOKEN, {"strategy": "channel", "symmetric": False}, "symmetric weights of one scale a channel"),
        ({**TOKEN, "symmetric": False}, {"strategy": "channel"}, "inputs of 8 bits, symmetric"),
        ({**TOKEN, "num_bits": 4}, {"strategy": "channel"}, "inputs of 8 bits, symmetric"),
    ],
    ids=["static", "group", "asymmetric weights", "asymmetric inputs", "bits of inputs"],
)
def test_what_no_tensor_computes_is_refused(inputs, weights, reason):
    with pytest.raises(InputError, match=f"q_proj: .*{reason}"):
        TorchaoExporter().takes(frozen(num_bits=8, inputs=inputs, **weights))


def test_the_engine_names_another_formats_export(tmp_path):
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    with pytest.raises(InputError, match="this one is gptq"):
        TorchaoEngine().load(tmp_path)


def resaved(directory, tensors):
    metadata = TensorFolder(directory).metadata
    save_file(tensors, directory / "model.safetensors", metadata=metadata)
    return TorchaoExporter().read(directory)


def test_zero_points_of_symmetric_weights_are_0(tmp_path):
    made = frozen(num_bits=4, strategy="group", group_size=32)
    TorchaoExporter().write(made, tmp_path / "out")
    name = next(iter(made.weights))
    tensors = load_file(tmp_path / "out/model.safetensors")
    tensors[f"{name}._weight_zero_point"][0, 0] = 1
    with pytest.raises(RunError, match=f"{name}: it has zero points that are not 0"):
        resaved(tmp_path / "out", tensors)[name]


def test_conv1d_is_refused():
    made = frozen(num_bits=4, strategy="channel")
    name = next(iter(made.weights))
    made.conv1d = [name]
    with pytest.raises(InputError, match=f"torchao cannot hold {name}: .* Conv1D, for which torchao has no tensor$"):
        TorchaoExporter().takes(made)


INTX = [
    (WEIGHTS[0], torch.int2, PerGroup(32), MappingType.ASYMMETRIC),
    (WEIGHTS[1], torch.int3, PerAxis(0), MappingType.SYMMETRIC),
    (WEIGHTS[2], torch.int4, PerGroup(32), MappingType.SYMMETRIC),
]


@pytest.mark.parametrize(("weights", "dtype", "granularity", "mapping"), INTX, ids=["2", "3", "4"])
def test_the_config_tells_torchao_what_the_tensors_are(weights, dtype, granularity, mapping):
    values = TorchaoExporter().config(frozen(**weights))["quantization_config"]
    assert values.keys() == {
        "quant_method",
        "quant_type",
        "modules_to_not_convert",
        "include_input_output_embeddings",
        "untie_embedding_weights",
    }
    assert values["quant_method"] == "torchao"
    assert values["modules_to_not_convert"] == ["lm_head", "model.embed_tokens"]  # not the norms: they are no matrices
    assert (values["include_input_output_embeddings"], values["untie_embedding_weights"]) == (False, False)
    config = config_from_dict(json.loads(json.dumps(values["quant_type"]["default"])))
    assert isinstance(config, IntxWeightOnlyConfig)
    assert (config.weight_dtype, config.granularity, config.mapping_type) == (dtype, granularity, mapping)


def test_the_config_of_an_integer_product():
    values = TorchaoExporter().config(frozen(num_bits=8, strategy="channel", inputs=TOKEN))["quantization_config"]
    config = config_from_dict(values["quant_type"]["default"])
    assert isinstance(config, Int8DynamicActivationInt8WeightConfig)


def test_the_config_of_several_schemes_names_every_module():
    groups = {
        "blocks": {"targets": ["Linear"], "weights": WEIGHTS[2]},
        "embedding": {"targets": ["Embedding"], "weights": WEIGHTS[1]},
    }
    model, scheme = random_llama(), Scheme(groups)
    prepare(model, scheme)
    made = QuantizedCheckpoint.freeze(model, scheme)
    values = TorchaoExporter().config(made)["quantization_config"]
    config = config_from_dict(json.loads(json.dumps(values["quant_type"]["default"])))
    assert isinstance(config, FqnToConfig)
    dtypes = {name: one.weight_dtype for name, one in config.fqn_to_config.items()}
    assert dtypes == {name: torch.int3 if name == "model.embed_tokens" else torch.int4 for name in made.weights}
    assert values["include_input_output_embeddings"] is True
    assert values["modules_to_not_convert"] == ["lm_head"]  # tied to the embedding, which the flag above puts right


def written(directory, **weights):
    made = frozen(**(weights or {"num_bits": 4, "strategy": "group", "group_size": 32}))
    TorchaoExporter().write(made, directory)
    return made, next(iter(made.weights)), load_file(directory / "model.safetensors")


def test_a_module_without_codes_is_missing(tmp_path):
    made, name, tensors = written(tmp_path / "out")
    del tensors[f"{name}._weight_qdata"]
    assert parity(made, resaved(tmp_path / "out", tensors)).missing == (name,)


def test_a_header_that_lacks_a_module_is_named(tmp_path):
    _, name, tensors = written(tmp_path / "out")
    metadata = {key: value for key, value in TensorFolder(tmp_path / "out").metadata.items() if key != f"{name}.weight"}
    save_file(tensors, tmp_path / "out/model.safetensors", metadata=metadata)
    with pytest.raises(InputError, match=f"headers in .* lack {name}.weight; export again"):
        TorchaoExporter().read(tmp_path / "out")[name]


def test_a_tensor_that_the_header_does_not_explain_is_named(tmp_path):
    _, name, tensors = written(tmp_path / "out")
    tensors[f"{name}._weight_more"] = torch.ones(1)
    with pytest.raises(InputError, match=f"has other tensors of {name} than its header says"):
        resaved(tmp_path / "out", tensors)[name]


@pytest.mark.parametrize("inputs", [None, TOKEN], ids=["intx", "int8"])
@pytest.mark.parametrize("rest", [torch.float32, torch.bfloat16], ids=str)
def test_the_tensors_compute_in_the_dtype_of_the_model(tmp_path, rest, inputs):
    made, exporter = frozen(num_bits=8, strategy="channel", inputs=inputs, rest=rest), TorchaoExporter()
    exporter.write(made, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert {model.get_submodule(name).weight.dtype for name in made.weights} == {rest}
