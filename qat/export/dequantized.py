"""dequantized: plain Hugging Face files whose weights are exactly the grid's values.

In 16 bits this is the *lossless twin* of the integer model: a host that takes only 16-bit weights serves, bit for
bit, what was trained. A code of m magnitude bits times a scale of n significand bits is exact in a type of m + n bits
(float16: 11, bfloat16: 8) whose exponents reach; ``scale_format: lossless_fp16 | lossless_bf16`` of a scheme picks
such scales. Every tensor is proven while it is written: value -> 16 bits -> float32 has the same bits, or nothing is
written.

A twin holds no rounding of input activations, keys or values: one of a W8A8 model is exact in its weights only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError, nearest
from qat.export import transformers_4_51
from qat.export.exactness import SIGNIFICAND_BITS, is_exact, name_misfits, value_bits
from qat.export.folder import FolderExporter
from qat.grid import Grid, scale_format
from qat.quantized import Lazy, QuantizedWeight, ReadModule
from qat.tensor_files import HEADER, INDEX, SINGLE, TensorFolder, row_blocks

DType = Literal["auto", "float32", "bfloat16", "float16"]
Dialect = Literal["transformers_5", "transformers_4_51"]
METADATA = "qat"
"""Key of the safetensors header under which the names of the quantized modules are kept for :meth:`read`."""

_EXACT = "export.dequantized.dtype=float32"
_LOSSLESS = {torch.float16: "lossless_fp16", torch.bfloat16: "lossless_bf16"}


@dataclass(frozen=True)
class DequantizedExporter(FolderExporter):
    """Float weights, config and tokenizer, as any transformers model has them.

    Args:
        dtype: of all weights. ``auto``: 16 bits, of the two types the first that the scheme's bits fit and that holds
            the unquantized weights exactly; their own is tried first.
        dialect: which version of transformers loads the files: 5, or 4.51.3 as on Bedrock.
        max_shard_size: larger weights are split into files of at most this size, with an index; like "5GB".

    Raises:
        InputError: an unknown dtype or dialect, or a size that cannot be read.
    """

    holds_activations: ClassVar[bool] = False

    dtype: DType = "auto"
    dialect: Dialect = "transformers_5"

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, value, allowed in (
            ("dtype", self.dtype, get_args(DType)),
            ("dialect", self.dialect, get_args(Dialect)),
        ):
            if value not in allowed:
                raise InputError(f"{option} '{value}' is not one of {', '.join(allowed)}{nearest(value, allowed)}")

    def takes(self, checkpoint: QuantizedCheckpoint) -> None:
        """Refuse a scheme whose scales have too many bits for the dtype, and what the dialect cannot say."""
        if self.dialect == "transformers_4_51":
            transformers_4_51.check(checkpoint.config)
        candidates = self._candidates(checkpoint)
        for name, entry in checkpoint.weights.items():
            bits = value_bits(checkpoint, entry)
            if all(bits > SIGNIFICAND_BITS[dtype] for dtype in candidates):
                raise InputError(
                    f"dequantized cannot hold {name} exactly in {' or '.join(map(_name, candidates))}: its "
                    f"{entry.args.num_bits}-bit codes times {checkpoint.scheme.scale_format} scales need {bits} "
                    f"significand bits; {_remedy(checkpoint, candidates)}, or set {_EXACT}"
                )

    def write_files(self, checkpoint: QuantizedCheckpoint, directory: Path) -> None:
        """Write ``config.json`` and the weights, each proven bit for bit, in the dialect.

        Raises:
            InputError: tensors that are not exact, with what they need and what would make them so.
        """
        decided = replace(self, dtype=self._decide(checkpoint))
        FolderExporter.write_files(decided, checkpoint, directory)
        if self.dialect == "transformers_4_51":
            transformers_4_51.rewrite_tokenizer(directory)
            _index_single_file(directory)

    def config(self, checkpoint: QuantizedCheckpoint) -> dict[str, Any]:
        """The model's own, with the dtype of the files, in the dialect."""
        config = {**checkpoint.config, "dtype": self.dtype}
        return transformers_4_51.config(config) if self.dialect == "transformers_4_51" else config

    def metadata(self, checkpoint: QuantizedCheckpoint) -> Mapping[str, str]:
        """Which weights are quantized, and which of them are stored transposed."""
        modules = {"modules": list(checkpoint.weights), "conv1d": checkpoint.conv1d}
        return {**HEADER, METADATA: json.dumps(modules)}

    def module_tensors(self, checkpoint: QuantizedCheckpoint, name: str, entry: QuantizedWeight) -> dict[str, Tensor]:
        """The values of one weight."""
        return {f"{name}.weight": self.rest_tensor(checkpoint, f"{name}.weight", entry.grid.value())}

    def module_blocks(
        self, checkpoint: QuantizedCheckpoint, name: str, entry: QuantizedWeight
    ) -> Iterator[tuple[str, Iterable[Tensor]]]:
        """The values of one weight, some rows at a time; those of a ``Conv1D``, which is transposed, at once."""
        full, grid = f"{name}.weight", entry.grid
        values = (grid.value(),) if name in checkpoint.conv1d else _value_blocks(grid)
        yield full, map(partial(self.rest_tensor, checkpoint, full), values)

    def rest_tensor(self, checkpoint: QuantizedCheckpoint, name: str, tensor: Tensor) -> Tensor:
        """``tensor`` in the dtype of the files, as transformers stores it.

        Raises:
            InputError: it is not exact, with every tensor that is not.
        """
        if tensor.is_floating_point():
            dtype = torch.float16 if self.dtype == "auto" else getattr(torch, self.dtype)  # auto: to plan the files
            if not (tensor.is_meta or is_exact(tensor, dtype)):
                raise InputError(_refusal(checkpoint, dtype))
            tensor = tensor.to(dtype)
        is_conv1d = name.removesuffix(".weight") in checkpoint.conv1d
        return tensor.t().contiguous() if is_conv1d else tensor

    def read(self, directory: Path) -> Mapping[str, ReadModule]:
        """Read the value of every quantized module, [out, in]; the files hold no integers.

        Raises:
            InputError: a file that is missing or damaged, or not one of this format.
        """
        tensors = TensorFolder(Path(directory))
        if METADATA not in tensors.metadata:
            raise InputError(f"{directory} was not written by the format dequantized; export again")
        names = json.loads(tensors.metadata[METADATA])
        present = [name for name in names["modules"] if f"{name}.weight" in tensors]
        return Lazy({name: partial(_read_module, tensors, name, name in names["conv1d"]) for name in present})

    def _candidates(self, checkpoint: QuantizedCheckpoint) -> tuple[torch.dtype, ...]:
        if self.dtype != "auto":
            return (getattr(torch, self.dtype),)
        bf16_first = checkpoint.config.get("dtype") == "bfloat16"
        return (torch.bfloat16, torch.float16) if bf16_first else (torch.float16, torch.bfloat16)

    def _decide(self, checkpoint: QuantizedCheckpoint) -> DType:
        """The dtype by the scheme and the rest alone: no weight is computed for it, each is proven when written."""
        bits = max(value_bits(checkpoint, entry) for entry in checkpoint.weights.values())
        fitting = [dtype for dtype in self._candidates(checkpoint) if bits <= SIGNIFICAND_BITS[dtype]]
        rest = checkpoint.rest
        holds_rest = (d for d in fitting if all(is_exact(b, d) for name in rest for b in checkpoint.rest_blocks(name)))
        return cast(DType, _name(next(holds_rest, fitting[0]) if len(fitting) > 1 else fitting[0]))


def _value_blocks(grid: Grid) -> Iterator[Tensor]:
    """``grid.value()`` in blocks of rows, so that no more of a large weight is there in float32."""
    for rows in row_blocks(torch.empty(grid.codes.shape, dtype=torch.float32, device="meta")):
        own = rows if grid.scale.ndim > 1 else slice(None)  # one scale of the whole tensor is that of every block
        zero_point = None if grid.zero_point is None else grid.zero_point[own]
        yield Grid(grid.codes[rows], grid.scale[own], zero_point).value()


def _refusal(checkpoint: QuantizedCheckpoint, dtype: torch.dtype) -> str:
    """What ``dtype`` does not hold and what to do: reads every tensor, one at a time."""
    wrong, reasons = name_misfits(_values(checkpoint), dtype)
    weights = {f"{name}.weight" for name in checkpoint.weights}
    remedies = [_remedy(checkpoint, (dtype,))] if weights & set(wrong) else []
    remedies += [f"quantize with rest_dtype={_name(dtype)}"] if set(wrong) - weights else []
    return (
        f"dequantized cannot hold {len(wrong)} of {len(checkpoint.rest) + len(weights)} tensors exactly in "
        f"{_name(dtype)} ({SIGNIFICAND_BITS[dtype]} significand bits): {reasons}; {' and '.join(remedies)}, "
        f"or set {_EXACT}"
    )


def _values(checkpoint: QuantizedCheckpoint) -> Iterator[tuple[str, Tensor]]:
    yield from checkpoint.rest.items()
    for name, entry in checkpoint.weights.items():
        yield f"{name}.weight", entry.grid.value()


def _remedy(checkpoint: QuantizedCheckpoint, candidates: tuple[torch.dtype, ...]) -> str:
    """The scale format that makes every value exact in one of ``candidates``; float16 where none of them can."""
    for dtype in (*candidates, torch.float16):
        try:
            for entry in checkpoint.weights.values():
                scale_format(_LOSSLESS[dtype], entry.args.num_bits, entry.args.symmetric)
        except InputError:
            continue
        wider = "" if dtype in candidates else f" and export with export.dequantized.dtype={_name(dtype)}"
        return f"quantize with scheme.scale_format={_LOSSLESS[dtype]}{wider}"
    return "use fewer bits or a symmetric scheme"


def _read_module(tensors: TensorFolder, name: str, transposed: bool) -> ReadModule:
    weight = tensors[f"{name}.weight"]
    return ReadModule(weight.t() if transposed else weight)


def _index_single_file(directory: Path) -> None:
    """An index also of a single file; its metadata is ``total_size`` alone, since Bedrock refuses other keys."""
    if (directory / INDEX).is_file():
        return
    tensors = TensorFolder(directory)
    size = sum(tensors[name].nbytes for name in tensors)
    index = {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(tensors, SINGLE)}
    (directory / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
