from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import random_llama
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
        ({**TOKEN, "symmetric": False}, {"strategy": "channel"}, "inputs of 8 bits, symmetric"),
    ],
    ids=["static", "group", "asymmetric"],
)
def test_what_no_tensor_computes_is_refused(inputs, weights, reason):
    with pytest.raises(InputError, match=f"q_proj: .*{reason}.*compressed_tensors"):
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
