"""GGUF: one file for llama.cpp, Ollama and others, with the trained codes in Q4_0 and Q8_0 blocks.

Codes are carried, never quantized again: symmetric grids of 2 to 4 bits become Q4_0, of 5 to 8 bits Q8_0, also where
that takes more room than the codes need: llama.cpp has no block that holds fewer bits exactly. Scales must be exact
in fp16, which ``scale_format: fp16`` ensures (bf16 scales are, unless very small). What is not quantized becomes
F16 where F16 holds it exactly, else BF16 or F32; norms and biases are F32, as llama.cpp requires.

What llama.cpp computes from the file is not float32: on CPU it rounds the input of a Q4_0 or Q8_0 matrix to INT8
in blocks of 32, of an F16 or BF16 matrix to that type, and keeps keys and values in F16 unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

from compressed_tensors.quantization import QuantizationStrategy
from gguf import GGML_QUANT_VERSION, MODEL_ARCH_NAMES, GGUFWriter, LlamaFileType

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError
from qat.export.base import Exporter, refuse_kv_cache
from qat.export.gguf.blocks import BLOCK, block_bits, fp16_scales, packed_bytes
from qat.export.gguf.model import add_metadata
from qat.export.gguf.modules import MODULES_KEY, module_table, read_modules
from qat.export.gguf.tensors import InexactScales, Names, RestType, always_f32, floor_of, plan, rest_names
from qat.export.gguf.tokenizer import add_no_tokenizer, add_tokenizer
from qat.export.gguf.writing import write_file
from qat.grid import scale_format
from qat.models.tokenizer import has_tokenizer
from qat.quantized import QuantizedWeight, ReadModule
from qat.rest import stop_tokens

FILE = "model.gguf"
_FP16_BITS = 11


@dataclass(frozen=True)
class GgufExporter(Exporter):
    """One ``model.gguf`` with metadata, tokenizer and chat template inside.

    Args:
        rest: ``f16``: unquantized matrices in the smallest of F16, BF16 and F32 that is exact; ``f32``: all in F32,
            larger, and llama.cpp rounds no input of theirs.
        activations: ``refuse`` a scheme with quantized activations or a rounded cache, or leave their rounding to the
            ``engine``, which is finer (INT8 in blocks of 32) than any trained one but not the trained one.
        tokenizer: False writes a file that takes and gives token ids only.
        pre: llama.cpp's name of the pre-tokenizer; None finds it by the tokenizer's patterns.

    Raises:
        InputError: an option with another value.
    """

    rest: RestType = "f16"
    activations: Literal["refuse", "engine"] = "refuse"
    tokenizer: bool = True
    pre: str | None = None

    holds_activations: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, allowed in (("rest", get_args(RestType)), ("activations", ("refuse", "engine"))):
            if getattr(self, name) not in allowed:
                raise InputError(f"gguf: {name} '{getattr(self, name)}' is not one of {', '.join(allowed)}")

    def takes(self, checkpoint: QuantizedCheckpoint) -> None:
        """See the base class: the architecture, the grids and every tensor's place are checked."""
        if checkpoint.task != "causal_lm":
            raise InputError(f"gguf holds causal language models, and this is a {checkpoint.task}")
        if self.activations == "refuse":
            refuse_kv_cache(
                checkpoint,
                "gguf",
                "llama.cpp rounds its cache by itself, when told to (--cache-type-k q8_0, blocks of 32); accept the "
                "engine's rounding with export.gguf.activations=engine",
            )
        names = Names(checkpoint.config)
        for name, entry in checkpoint.weights.items():
            if reason := _misfit(entry):
                raise InputError(f"gguf cannot hold {name}: {reason}")
            names(f"{name}.weight")
            if entry.scheme.input_activations is not None and self.activations == "refuse":
                raise InputError(
                    f"gguf cannot hold how the input of {name} is rounded: llama.cpp rounds by itself; "
                    "accept the engine's rounding with export.gguf.activations=engine"
                )
        for name in rest_names(checkpoint):
            names(name)
        _check_scale_format(checkpoint)

    def takes_tokenizer(self, checkpoint: QuantizedCheckpoint, tokenizer_dir: Path) -> None:
        """See the base class: the tokenizer's metadata is made, and thrown away."""
        if self.tokenizer:
            writer = GGUFWriter(None, MODEL_ARCH_NAMES[Names(checkpoint.config).architecture.arch])
            _add_tokenizer(writer, checkpoint, tokenizer_dir, self.pre)

    def write_files(self, checkpoint: QuantizedCheckpoint, directory: Path) -> None:
        """Write ``model.gguf``; the tokenizer's files lie in ``directory`` already.

        Raises:
            InputError: no tokenizer, one that llama.cpp cannot follow, or scales that are not exact in fp16.
        """
        writer = GGUFWriter(None, MODEL_ARCH_NAMES[Names(checkpoint.config).architecture.arch])
        self._add_metadata(writer, checkpoint, directory)
        try:
            write_file(writer, directory / FILE, plan(checkpoint, self.rest))
        except InexactScales:
            raise _inexact_scales(checkpoint) from None

    def weight_bytes(self, checkpoint: QuantizedCheckpoint) -> int:
        """Bytes of all tensors, at most: float32 tensors are counted whole, whether 16 bits hold them or not."""
        names = Names(checkpoint.config)
        total = sum(packed_bytes(entry.shape, block_bits(entry.args)) for entry in checkpoint.weights.values())
        for name in rest_names(checkpoint):
            tensor = checkpoint.rest[name]
            whole = self.rest == "f32" or always_f32(names(name), tensor.ndim)
            total += tensor.numel() * 4 if whole else tensor.nbytes
        return total

    def read(self, directory: Path) -> Mapping[str, ReadModule]:
        """See :func:`qat.export.gguf.modules.read_modules`."""
        return read_modules(Path(directory) / FILE)

    def _add_metadata(self, writer: GGUFWriter, checkpoint: QuantizedCheckpoint, directory: Path) -> None:
        config = checkpoint.config
        writer.add_type("model")
        writer.add_name(Path(str(config.get("_name_or_path") or config["model_type"])).name)
        writer.add_file_type(_file_type(checkpoint))
        writer.add_quantization_version(GGML_QUANT_VERSION)
        add_metadata(writer, config)
        writer.add_string(MODULES_KEY, module_table(checkpoint))
        if self.tokenizer:
            _add_tokenizer(writer, checkpoint, directory, self.pre)
        else:
            add_no_tokenizer(writer)


def _add_tokenizer(writer: GGUFWriter, checkpoint: QuantizedCheckpoint, directory: Path, pre: str | None) -> None:
    without = "write a file for token ids only with export.gguf.tokenizer=false"
    if not has_tokenizer(directory):
        raise InputError(
            "gguf carries the tokenizer in its file, and there is none; name its folder with "
            f"model.tokenizer=<folder>, or {without}"
        )
    stops = stop_tokens(checkpoint.config, checkpoint.generation_config)
    try:
        add_tokenizer(writer, directory, checkpoint.config["vocab_size"], stops, pre)
    except InputError as error:
        raise InputError(f"{error}; {without}, or pick another format, which goes with any tokenizer") from None


def _misfit(entry: QuantizedWeight) -> str | None:
    """Why no block holds the grid of a module; None if one does."""
    args, (_, columns) = entry.args, entry.shape
    if not args.symmetric:
        return "its grid is asymmetric, and the blocks of Q4_0 and Q8_0 have no zero point"
    if columns % BLOCK:
        return f"its rows have {columns} codes, and a GGUF block is {BLOCK} of one row"
    if args.strategy == QuantizationStrategy.GROUP and (args.group_size or BLOCK) % BLOCK:
        return f"its groups have {args.group_size} codes, and a GGUF block is {BLOCK}: use a multiple of it"
    return None


def _check_scale_format(checkpoint: QuantizedCheckpoint) -> None:
    name = checkpoint.scheme.scale_format
    for entry in checkpoint.weights.values():
        found = scale_format(name, int(entry.args.num_bits), bool(entry.args.symmetric))
        if found.significand > _FP16_BITS:
            raise InputError(
                f"gguf holds scales in fp16, of {_FP16_BITS} significand bits, and scale_format '{name}' has "
                f"{found.significand}; quantize with scheme.scale_format=fp16"
            )


def _inexact_scales(checkpoint: QuantizedCheckpoint) -> InputError:
    name = checkpoint.scheme.scale_format
    found: list[str] = []
    for module, entry in checkpoint.weights.items():
        own = entry.grid
        _, inexact = fp16_scales(own, floor_of(checkpoint, entry))
        if inexact:
            found.append(f"{module} ({inexact} scales, smallest {float(own.scale.float().min()):.3g})")
    listed = ", ".join(found[:3]) + (f" and {len(found) - 3} more modules" if len(found) > 3 else "")
    fix = "lossless_fp16" if name.startswith("lossless") else "fp16"
    return InputError(
        f"gguf holds scales in fp16 (steps of 6e-8 below 6e-5, largest 65504), and these have some that need more: "
        f"{listed}; quantize with scheme.scale_format={fix} instead of {name}, or pick another format"
    )


def _file_type(checkpoint: QuantizedCheckpoint) -> LlamaFileType:
    bits = {block_bits(entry.args) for entry in checkpoint.weights.values()}
    if not bits:
        return LlamaFileType.MOSTLY_F16
    return LlamaFileType.MOSTLY_Q4_0 if 4 in bits else LlamaFileType.MOSTLY_Q8_0
