"""A graph takes seconds to trace: it is traced once for all tests that look at it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from support import VOCABULARY, copy_tokenizer, random_llama
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

from qat.checkpoint import QuantizedCheckpoint
from qat.config.check import instantiate
from qat.config.compose import component
from qat.engines.onnxruntime import OnnxRuntimeEngine
from qat.errors import InputError, RunError
from qat.evaluate.forward import outputs
from qat.evaluate.parity import max_logit_difference, parity
from qat.export.onnx import file as onnx_file
from qat.export.onnx.exporter import OnnxExporter
from qat.models import conv1d
from qat.observers.mse import MSE
from qat.prepare import prepare
from qat.ptq.calibrate import calibrate
from qat.restore import restore
from qat.scheme import Scheme, preset

pytestmark = pytest.mark.slow

STATIC = {"num_bits": 8, "strategy": "tensor", "dynamic": False}
TOKENS = torch.randint(VOCABULARY, (3, 24), generator=torch.Generator().manual_seed(0))


def weights(bits: int, strategy: str = "group", symmetric: bool = True) -> dict:
    size = 32 if strategy == "group" else None
    return {"num_bits": bits, "strategy": strategy, "group_size": size, "symmetric": symmetric}


def group(target: str, args: dict, inputs: dict | None = None) -> dict:
    return {"targets": [target], "weights": args, "input_activations": inputs}


# Every way to hold a weight, side by side: tied embedding, blocks, channels, a tensor, zero points, INT4 and INT8.
MIXED = Scheme(
    {
        "embedding": group("Embedding", weights(4)),
        "q": group("re:.*q_proj", weights(2, symmetric=False)),
        "k": group("re:.*k_proj", weights(3, "channel", symmetric=False)),
        "v": group("re:.*v_proj", weights(8, "tensor")),
        "o": group("re:.*o_proj", weights(8, "group", symmetric=False)),
        "gate": group("re:.*gate_proj", weights(4, "channel")),
        "mlp": group("Linear", weights(5)),
    },
    scale_format="fp16",
)


def frozen(scheme: Scheme, model=None, task: str = "causal_lm", rest=None, **changes) -> QuantizedCheckpoint:
    model = model or random_llama(num_hidden_layers=1, **changes)
    prepare(model, scheme)
    if scheme.has_static_activations:
        calibrate(model, [{"input_ids": TOKENS}], MSE())
    return QuantizedCheckpoint.freeze(model, scheme, task, rest)


def with_scales(scale_format: str, name: str = "w4a16_g32") -> Scheme:
    return Scheme(**preset(name).to_dict() | {"scale_format": scale_format})


def bert() -> BertModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128}
    return BertModel(BertConfig(vocab_size=VOCABULARY, **sizes)).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes)).eval()
    conv1d.to_linear(model)
    return model


def loaded(directory: Path, **options) -> OnnxRuntimeEngine:
    engine = OnnxRuntimeEngine(threads=1, **options)
    engine.load(directory)
    return engine


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> tuple[QuantizedCheckpoint, Path]:
    checkpoint, source = frozen(MIXED, rest=torch.bfloat16), tmp_path_factory.mktemp("source")
    copy_tokenizer(source)
    directory = tmp_path_factory.mktemp("mixed") / "onnx"
    OnnxExporter().write(checkpoint, directory, source)
    return checkpoint, directory


@pytest.fixture(scope="module")
def static(tmp_path_factory) -> tuple[QuantizedCheckpoint, Path]:
    checkpoint = frozen(with_scales("lossless_fp16"), rest=torch.float16)
    directory = tmp_path_factory.mktemp("static") / "onnx"
    OnnxExporter(static=True, batch=2, sequence=32).write(checkpoint, directory)
    return checkpoint, directory


def test_every_grid_comes_back_bit_for_bit(mixed):
    checkpoint, directory = mixed
    assert parity(checkpoint, OnnxExporter().read(directory)).exact


def test_codes_of_up_to_four_bits_are_int4_and_a_tied_weight_is_stored_once(mixed):
    _, directory = mixed
    kinds = {t.name: t.data_type for t in onnx.load(directory / "model.onnx").graph.initializer}
    layer = "model.layers.0"
    for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj"):
        assert kinds[f"{layer}.{name}.weight.codes"] == onnx.TensorProto.INT4
    assert kinds[f"{layer}.self_attn.q_proj.weight.zero_point"] == onnx.TensorProto.INT4
    assert kinds[f"{layer}.mlp.up_proj.weight.codes"] == onnx.TensorProto.INT8
    assert kinds["model.embed_tokens.weight.codes"] == onnx.TensorProto.INT4
    assert not [name for name in kinds if name.startswith("lm_head")]


@pytest.mark.parametrize("optimization", ["all", "disable"])
def test_onnxruntime_computes_the_trained_model(mixed, optimization):
    checkpoint, directory = mixed
    engine = loaded(directory, optimization=optimization)
    assert max_logit_difference(engine.logits, restore(checkpoint), TOKENS) <= 1e-5
    assert max_logit_difference(engine.logits, random_llama(num_hidden_layers=1), TOKENS) > 1e-3


def test_config_and_tokenizer_lie_beside_the_graph(mixed):
    _, directory = mixed
    assert json.loads((directory / "config.json").read_text())["model_type"] == "llama"
    assert {"model.onnx", "tokenizer.json", "generation_config.json"} <= {path.name for path in directory.iterdir()}


def test_large_weights_lie_in_a_file_of_their_own(mixed, tmp_path, monkeypatch):
    checkpoint, directory = mixed
    monkeypatch.setattr(onnx_file, "ONE_FILE", 0)
    onnx_file.save(ir.load(directory / "model.onnx"), checkpoint, tmp_path, OnnxExporter().weight_bytes(checkpoint))
    (tmp_path / "config.json").write_text("{}")
    assert parity(checkpoint, OnnxExporter().read(tmp_path)).exact
    assert max_logit_difference(loaded(tmp_path).logits, restore(checkpoint), TOKENS) <= 1e-5
    data = tmp_path / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1000])
    with pytest.raises(InputError, match="model.onnx.data is missing or damaged: it needs"):
        OnnxExporter().read(tmp_path)


def test_damage_is_named(mixed, tmp_path):
    _, directory = mixed
    with pytest.raises(InputError, match=r"has no model\.onnx"):
        OnnxExporter().read(tmp_path)
    model = onnx.load(directory / "model.onnx")
    node = next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and "q_proj" in n.input[0])
    next(a for a in node.attribute if a.name == "block_size").i = 64
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(RunError, match="q_proj: onnx's DequantizeLinear makes other values"):
        dict(OnnxExporter().read(tmp_path))
    model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name.endswith("q_proj.weight.codes")))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(InputError, match="lacks model.layers.0.self_attn.q_proj.weight.codes"):
        dict(OnnxExporter().read(tmp_path))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(InputError, match="was not written by qat"):
        OnnxExporter().read(tmp_path)
    (tmp_path / "model.onnx").write_bytes((directory / "model.onnx").read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged"):
        OnnxExporter().read(tmp_path)


def test_a_model_of_floats_only_in_its_tied_embedding_keeps_its_16_bits(tmp_path):
    checkpoint = frozen(preset("w4a16_g32"), rest=torch.bfloat16)
    OnnxExporter().write(checkpoint, tmp_path / "out")
    tensors = {t.name: t for t in onnx.load(tmp_path / "out/model.onnx").graph.initializer}
    assert tensors["model.embed_tokens.weight"].data_type == onnx.TensorProto.BFLOAT16
    ours = sum(len(t.raw_data) for name, t in tensors.items() if name in checkpoint.rest or ".weight." in name)
    assert ours == OnnxExporter().weight_bytes(checkpoint)
    assert max_logit_difference(loaded(tmp_path / "out").logits, restore(checkpoint), TOKENS) <= 1e-5


def test_static_activations_are_carried(tmp_path):
    args = weights(8, "channel")
    scheme = Scheme(
        {
            "sym": group("re:.*self_attn.*", args, STATIC),
            "asym": group("re:.*mlp.*", args, STATIC | {"symmetric": False}),
        }
    )
    checkpoint = frozen(scheme)
    OnnxExporter().write(checkpoint, tmp_path / "out")
    read = OnnxExporter().read(tmp_path / "out")
    assert parity(checkpoint, read).exact
    assert all((module.input_zero_point is None) == ("self_attn" in name) for name, module in read.items())
    nodes = [node.op_type for node in onnx.load(tmp_path / "out/model.onnx").graph.node]
    assert nodes.count("QuantizeLinear") == len(checkpoint.weights) == 7
    assert nodes.count("DequantizeLinear") == 14
    assert max_logit_difference(loaded(tmp_path / "out").logits, restore(checkpoint), TOKENS) <= 1e-2


def test_conv1d_and_dynamic_activations(tmp_path):
    checkpoint = frozen(preset("w8a8"), gpt2())
    OnnxExporter().write(checkpoint, tmp_path / "out")
    assert parity(checkpoint, OnnxExporter().read(tmp_path / "out")).exact
    assert max_logit_difference(loaded(tmp_path / "out").logits, restore(checkpoint), TOKENS) <= 1e-2


def test_an_encoder_with_its_pooler(tmp_path):
    checkpoint = frozen(preset("w4a16_g32"), bert(), "encoder")
    OnnxExporter().write(checkpoint, tmp_path / "out")
    assert "pooler.dense" in checkpoint.weights
    assert parity(checkpoint, OnnxExporter().read(tmp_path / "out")).exact
    assert max_logit_difference(loaded(tmp_path / "out").logits, restore(checkpoint), TOKENS) <= 1e-5


def test_the_zero_point_of_a_symmetric_input_is_0(tmp_path):
    checkpoint = frozen(Scheme({"all": group("Linear", weights(8, "channel"), STATIC)}))
    OnnxExporter().write(checkpoint, tmp_path / "out")
    name = next(iter(checkpoint.weights))
    model = onnx.load(tmp_path / "out/model.onnx", load_external_data=False)
    stored = next(t for t in model.graph.initializer if t.name == f"{name}.input.zero_point")
    stored.CopyFrom(onnx.numpy_helper.from_array(np.array(1, dtype=np.int8), stored.name))
    onnx.save(model, tmp_path / "out/model.onnx")
    with pytest.raises(RunError, match=f"{name}: the zero point of its input is 1, and its input is symmetric"):
        OnnxExporter().read(tmp_path / "out")[name]


def test_static_is_opset_16_of_fixed_shapes_in_fp16(static):
    checkpoint, directory = static
    model = onnx.load(directory / "model.onnx")
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 16)]
    stored = {t.name: t for t in model.graph.initializer if t.name.endswith("weight")}
    assert {t.data_type for t in stored.values()} == {onnx.TensorProto.FLOAT16}
    ours = sum(len(t.raw_data) for t in stored.values())
    assert ours == OnnxExporter(static=True).weight_bytes(checkpoint)
    (ids,) = model.graph.input
    assert ids.type.tensor_type.elem_type == onnx.TensorProto.INT32
    assert [d.dim_value for d in ids.type.tensor_type.shape.dim] == [2, 32]


def test_static_holds_the_values_bit_for_bit(static, tmp_path):
    checkpoint, directory = static
    assert parity(checkpoint, OnnxExporter().read(directory)).exact
    model = onnx.load(directory / "model.onnx")
    weight = next(t for t in model.graph.initializer if t.name.endswith("q_proj.weight"))
    weight.raw_data = bytes([weight.raw_data[0] ^ 1]) + weight.raw_data[1:]
    onnx.save(model, tmp_path / "model.onnx")
    assert parity(checkpoint, OnnxExporter().read(tmp_path)).mismatched_codes == 1


def test_static_computes_the_trained_model_in_fp16(static):
    checkpoint, directory = static
    engine = loaded(directory)  # three rows of 24 tokens in batches of two rows of 32
    assert engine.dtype == "float16"
    assert max_logit_difference(engine.logits, restore(checkpoint), TOKENS) <= 5e-3
    assert torch.equal(engine.logits(TOKENS).argmax(-1)[:, 0], outputs(restore(checkpoint), TOKENS).argmax(-1)[:, 0])


def test_static_names_what_fp16_does_not_hold(tmp_path):
    exporter = OnnxExporter(static=True, sequence=32)
    with pytest.raises(InputError, match="model.embed_tokens.weight needs 24 .*rest_dtype=float16"):
        exporter.write(frozen(with_scales("lossless_fp16")), tmp_path / "out")
    tiny = frozen(with_scales("significand_1"), rest=torch.float16)
    name = "model.layers.0.mlp.up_proj"
    grid = tiny.weights[name].grid
    tiny.weights[name] = replace(tiny.weights[name], numbers=replace(grid, scale=grid.scale * 2.0**-40))
    with pytest.raises(InputError, match=f"{name}.weight holds .*out of its range; quantize with .*=lossless_fp16, or"):
        exporter.write(tiny, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_a_graph_cannot_hold_is_refused_before_it_is_traced():
    with pytest.raises(InputError, match=r"input activations.*static=false"):
        OnnxExporter(static=True, sequence=8).takes(frozen(preset("w8a8")))
    with pytest.raises(InputError, match="sequence is 65, and the model's context 64"):
        OnnxExporter(static=True, sequence=65).takes(frozen(preset("w4a16_g32")))
    with pytest.raises(InputError, match="q_proj times bf16 scales need 15 significand bits, not 11; .*lossless_fp16"):
        OnnxExporter(static=True, sequence=8).takes(frozen(with_scales("bf16", "w8a16")))
    four = Scheme({"all": group("Linear", weights(4), STATIC | {"num_bits": 4})})
    with pytest.raises(InputError, match="8 bits, and those of model.layers.0.self_attn.q_proj have 4"):
        OnnxExporter().takes(frozen(four))
    with pytest.raises(InputError, match="batch is 0"):
        OnnxExporter(static=True, batch=0)


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_without_the_packages_the_config_check_names_the_extra(monkeypatch, package):
    monkeypatch.delitem(sys.modules, "qat.export.onnx.exporter")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"needs the package {package}: pip install '.\\[onnx\\]'"):
        instantiate(component("export", "onnx"), "export.onnx")
