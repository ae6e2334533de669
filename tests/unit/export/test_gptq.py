from __future__ import annotations

import json

import pytest
import torch
from compressed_tensors.quantization import QuantizationScheme
from safetensors.torch import load_file, save_file

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError, RunError
from qat.evaluate.parity import Parity, parity
from qat.export.gptq import GptqExporter
from qat.export.gptq_tensors import pack
from qat.grid import Grid, qrange
from qat.quantized import QuantizedWeight
from qat.scheme import Scheme

NAME = "model.layers.0.q_proj"
DYNAMIC = {"num_bits": 8, "strategy": "token", "dynamic": True}


def entry(bits=4, group=32, symmetric=True, dtype=torch.float16, shape=(32, 64), inputs=None, **changes):
    generator = torch.Generator().manual_seed(0)
    low, high = qrange(bits)
    codes = torch.randint(low, high + 1, shape, generator=generator).to(torch.int8)
    scale = (torch.rand(shape[0], shape[1] // (group or shape[1]), generator=generator) + 0.5).to(dtype)
    zero = None if symmetric else torch.randint(low + 1, high + 1, scale.shape, generator=generator).to(torch.int8)
    strategy = changes.pop("strategy", "group" if group else "channel")
    args = {"num_bits": bits, "strategy": strategy, "group_size": group, "symmetric": symmetric}
    scheme = QuantizationScheme(targets=["Linear"], weights=args, input_activations=inputs)
    return QuantizedWeight(changes.pop("grid", Grid(codes, scale, zero)), scheme, changes.pop("kind", "Linear"))


def checkpoint(entries, **more):
    rest = {"model.embed_tokens.weight": torch.ones(8, 64), **more.pop("rest", {})}
    scheme = Scheme({"all": next(iter(entries.values())).scheme}, scale_format=more.pop("scale_format", "fp16"))
    return QuantizedCheckpoint(entries, rest, scheme, {"model_type": "llama", "dtype": "float16"}, **more)


@pytest.mark.parametrize("scale_format", ["fp16", "bf16", "significand_9"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["sym", "asym"])
@pytest.mark.parametrize("group", [32, None], ids=["group", "channel"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_round_trip_is_exact(tmp_path, bits, group, symmetric, scale_format):
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(scale_format, torch.float32)
    made = entry(bits, group, symmetric, dtype)
    made.grid.scale.copy_(made.grid.scale.bfloat16())  # few bits, whatever the checkpoint stores it in
    made = checkpoint({NAME: made}, scale_format=scale_format)
    exporter = GptqExporter()
    exporter.write(made, tmp_path / "out")
    assert parity(made, exporter.read(tmp_path / "out")) == Parity(1, 0, 0, 0)
    tensors = load_file(tmp_path / "out/model.safetensors")
    assert exporter.weight_bytes(made) == sum(tensor.nbytes for tensor in tensors.values())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_integers_are_one_stream_of_bits_lowest_first(bits):
    """The definition, in integers of Python: codes lie along the inputs, zero points along the outputs."""
    grid = entry(bits, symmetric=False).grid
    local, half = pack(grid, bits), 1 << (bits - 1)

    def stream(numbers) -> int:
        return sum((int(number) + half) << (bits * index) for index, number in enumerate(numbers))

    def joined(words) -> int:
        return sum((int(word) & 0xFFFFFFFF) << (32 * index) for index, word in enumerate(words))

    for output in range(0, 32, 7):
        assert joined(local["qweight"][:, output]) == stream(grid.codes[output])
    for group in range(2):
        assert joined(local["qzeros"][group]) == stream(grid.zero_point[:, group])


def test_layout_by_hand(tmp_path):
    codes = torch.zeros(32, 32, dtype=torch.int8)
    codes[0, :8] = torch.tensor([-8, 7, 0, 1, -1, 2, 3, 4])
    made = checkpoint({NAME: entry(4, None, shape=(32, 32), grid=Grid(codes, torch.full((32, 1), 0.5).half()))})
    GptqExporter().write(made, tmp_path / "out")
    local = load_file(tmp_path / "out/model.safetensors")
    assert local[f"{NAME}.qweight"].shape == (4, 32)
    assert int(local[f"{NAME}.qweight"][0, 0]) & 0xFFFFFFFF == 0xCBA798F0
    assert local[f"{NAME}.qzeros"].tolist() == [[0x77777777] * 4]  # 8, stored minus one
    assert local[f"{NAME}.g_idx"].tolist() == [0] * 32
    values = json.loads((tmp_path / "out/quantize_config.json").read_text())
    assert (values["bits"], values["group_size"], values["sym"], values["checkpoint_format"]) == (4, -1, True, "gptq")


def test_scales_that_float16_does_not_hold_are_named_with_the_remedy(tmp_path):
    entries = {f"model.layers.{index}.q_proj": entry(dtype=torch.bfloat16) for index in range(6)}
    for index in (0, 2, 3, 5):
        entries[f"model.layers.{index}.q_proj"].grid.scale[0, 0] = 2.0**-30
    message = (
        r"does not hold those of 4 modules exactly: model\.layers\.0\.q_proj holds 9\.31323e-10, out of its range, "
        r".*layers\.2.*layers\.3.* and 1 more; quantize with scheme.scale_format=fp16, or pick another"
    )
    with pytest.raises(InputError, match=message):
        GptqExporter().write(checkpoint(entries, scale_format="bf16"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_scale_format_of_too_many_bits_is_refused_early():
    with pytest.raises(InputError, match="fp32 scales have 24; quantize with scheme.scale_format=fp16$"):
        GptqExporter().takes(checkpoint({NAME: entry(dtype=torch.float32)}, scale_format="fp32"))


def test_weights_above_the_shard_size_are_split(tmp_path):
    made = checkpoint({f"model.layers.{index}.q_proj": entry(3, symmetric=False) for index in range(4)})
    exporter = GptqExporter(max_shard_size="2KB")
    exporter.write(made, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    assert parity(made, exporter.read(tmp_path / "out")) == Parity(4, 0, 0, 0)


def test_parity_sees_a_flipped_bit(tmp_path):
    made = checkpoint({NAME: entry(symmetric=False)})
    GptqExporter().write(made, tmp_path / "out")
    tensors = load_file(tmp_path / "out/model.safetensors")
    tensors[f"{NAME}.qweight"][0, 0] ^= 0b10001  # one bit of each of the first two codes
    tensors[f"{NAME}.qzeros"][0, 0] ^= 1
    tensors[f"{NAME}.scales"][0, 0] *= 2
    save_file(tensors, tmp_path / "out/model.safetensors", metadata={"format": "pt"})
    assert parity(made, GptqExporter().read(tmp_path / "out")) == Parity(1, 2, 1, 1)


@pytest.mark.parametrize("raw", ['{"quant_method": "awq"}', '{"quant_method": "gptq", "bits": 4}'])
def test_an_export_of_another_format_or_program_is_named(tmp_path, raw):
    (tmp_path / "config.json").write_text(f'{{"quantization_config": {raw}}}')
    with pytest.raises(InputError, match="was not written by the format gptq"):
        GptqExporter().read(tmp_path)


def test_the_lowest_zero_point_is_held_by_v2(tmp_path):
    made = entry(symmetric=False)
    made.grid.zero_point[0, 0] = -8
    made = checkpoint({NAME: made})
    GptqExporter().write(made, tmp_path / "out")
    assert json.loads((tmp_path / "out/quantize_config.json").read_text())["checkpoint_format"] == "gptq_v2"
    assert int(load_file(tmp_path / "out/model.safetensors")[f"{NAME}.qzeros"][0, 0]) & 0xF == 0
    assert parity(made, GptqExporter().read(tmp_path / "out")).exact


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (entry(5), "packs 2, 3, 4, 8$"),
        (entry(kind="Embedding"), "leave embeddings and the head float$"),
        (entry(8, None, inputs=DYNAMIC), "quantizes input activations$"),
        (entry(shape=(16, 64)), "16 x 64, and both must be multiples of 32$"),
        (entry(group=16, shape=(32, 48)), "32 x 48, and both must be multiples of 32"),
        (entry(strategy="tensor", group=None), "strategy 'tensor', and it holds channel and group$"),
    ],
    ids=["bits", "embedding", "activations", "rows", "columns", "strategy"],
)
def test_what_the_layout_cannot_hold_is_refused_early(made, message):
    with pytest.raises(InputError, match=message):
        GptqExporter().takes(checkpoint({NAME: made}))


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("lm_head", {}, "the linear layers of the blocks only"),
        (NAME, {"tied": [["model.embed_tokens.weight", f"{NAME}.weight"]]}, "the linear layers of the blocks only"),
        (NAME, {"conv1d": [NAME]}, "builds it as Conv1D$"),
    ],
    ids=["head", "tied", "conv1d"],
)
def test_modules_that_no_loader_looks_for_are_refused_early(name, more, message):
    with pytest.raises(InputError, match=f"gptq cannot hold {name}: .*{message}"):
        GptqExporter().takes(checkpoint({name: entry()}, **more))


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (entry(8), "8 bits, groups of 32, symmetric"),
        (entry(group=64), "4 bits, groups of 64, symmetric"),
        (entry(group=None), "4 bits, one group a channel, symmetric"),
        (entry(symmetric=False), "4 bits, groups of 32, asymmetric"),
    ],
    ids=["bits", "group", "channel", "asymmetric"],
)
def test_two_schemes_are_refused(other, told):
    with pytest.raises(InputError, match=rf"has 4 bits, groups of 32, symmetric and .*1\.q_proj {told}; give all"):
        GptqExporter().takes(checkpoint({NAME: entry(), "model.layers.1.q_proj": other}))


@pytest.mark.parametrize(("symmetric", "checkpoint_format"), [(True, "gptq"), (False, "gptq_v2")])
def test_both_configs_say_all_that_loaders_read(tmp_path, symmetric, checkpoint_format):
    rest = {"model.layers.0.o_proj.bias": torch.ones(32), "model.layers.0.norm.weight": torch.ones(64)}
    GptqExporter().write(checkpoint({NAME: entry(3, symmetric=symmetric)}, rest=rest), tmp_path / "out")
    expected = {"bits": 3, "group_size": 32, "sym": symmetric, "desc_act": False, "lm_head": False}
    expected |= {"quant_method": "gptq", "checkpoint_format": checkpoint_format, "pack_dtype": "int32"}
    assert json.loads((tmp_path / "out/quantize_config.json").read_text()) == expected
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["quantization_config"] == expected | {"qat_scale_dtype": "float16"}


def test_float_layers_inside_the_blocks_are_excluded_by_name(tmp_path):
    made = checkpoint({NAME: entry()}, rest={"model.layers.0.o_proj.weight": torch.ones(32, 32)})
    GptqExporter().write(made, tmp_path / "out")
    values = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    assert values["dynamic"] == {r"-:^model\.layers\.0\.o_proj$": {}}


def altered(directory, **changes):
    tensors = load_file(directory / "model.safetensors")
    for part, (index, value) in changes.items():
        tensors[f"{NAME}.{part}"][index] = value
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return GptqExporter().read(directory)


def test_zero_points_of_symmetric_weights_are_what_engines_subtract(tmp_path):
    GptqExporter().write(checkpoint({NAME: entry()}), tmp_path / "out")
    read = altered(tmp_path / "out", qzeros=((0, 0), 0x77777778))
    with pytest.raises(RunError, match=f"{NAME}: its qzeros, which engines read, are not those of its integers"):
        read[NAME]


@pytest.mark.parametrize("symmetric", [True, False], ids=["sym", "asym"])
def test_groups_in_another_order_are_seen(tmp_path, symmetric):
    GptqExporter().write(checkpoint({NAME: entry(symmetric=symmetric)}), tmp_path / "out")
    read = altered(tmp_path / "out", g_idx=(0, 1))
    with pytest.raises(RunError, match=f"{NAME}: its g_idx, which engines read"):
        read[NAME]


@pytest.mark.parametrize("part", ["qzeros", "scales", "g_idx"])
def test_a_missing_tensor_is_named_with_its_file(tmp_path, part):
    GptqExporter().write(checkpoint({NAME: entry()}), tmp_path / "out")
    tensors = load_file(tmp_path / "out/model.safetensors")
    del tensors[f"{NAME}.{part}"]
    save_file(tensors, tmp_path / "out/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"model.safetensors lacks {NAME}.{part}"):
        GptqExporter().read(tmp_path / "out")[NAME]
