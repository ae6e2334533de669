"""The quantized checkpoint: codes, scales and the unquantized rest, made once and read by every exporter.

Files of a checkpoint folder::

    model.safetensors    <module>.weight.codes int8, .weight.scale, .weight.zero_point, <module>.input.scale, ...,
                         <attention>.k_scale and .v_scale of a static KV cache,
                         and every unquantized tensor under its own name; above 5 GB in shards with an index
    config.json          the model's own configuration; `dtype` is that of the unquantized tensors
    generation_config.json  stop tokens and sampling defaults, of a model that generates
    manifest.json        format version, scheme, grid of every module, ties, sha256 of every file and of itself
    tokenizer files
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationScheme
from torch import Tensor, nn

from qat.convert import check_final
from qat.errors import InputError
from qat.freezing import freeze_caches, freeze_host
from qat.grid import Grid
from qat.hosts import hosts, kv_caches, quantizers, uncalibrated
from qat.manifest import FORMAT_VERSION, MANIFEST, REPAIR, SELF, digest_of, verify
from qat.models.conv1d import stored_transposed
from qat.models.outputs import tied_groups
from qat.models.tokenizer import save_tokenizer
from qat.paths import new_folder
from qat.quantized import Deferred, KVScales, LazyTensors, QuantizedWeight, Rows, on_meta
from qat.rest import config_of, generation_config_of, unquantized
from qat.scheme import Scheme
from qat.tensor_files import TensorFolder, sha256, write_tensors

MAX_SHARD_SIZE = "5GB"
GENERATION = "generation_config.json"
WEIGHT_PARTS = ("weight.codes", "weight.scale", "weight.zero_point")
INPUT_PARTS = ("input.scale", "input.zero_point")
KV_PARTS = ("k_scale", "v_scale")
KV_CACHE = "kv_cache"
"""Key of the manifest for the names of the attentions that have scales of their own; others have none of it."""


@dataclass
class QuantizedCheckpoint:
    """What was trained, in integers.

    Of a model that does not fit in memory both mappings are lazy: they give one tensor at a time, see
    :mod:`qat.quantized`, and those of the rest also block by block. A checkpoint that was loaded is always so.

    Attributes:
        weights: module name -> its integers. Modules that share a weight share one entry: the first name.
        rest: unquantized tensors by ``state_dict`` name; of tied tensors only the first name.
        scheme: the scheme as it was written.
        config: the model's ``config.json``; its ``dtype`` is that of the unquantized weights.
        task: ``causal_lm``, ``masked_lm`` or ``encoder``.
        tied: groups of parameter names that are one tensor.
        conv1d: modules that were GPT-2's ``Conv1D``; their codes are [out, in] like those of a Linear.
        generation_config: the model's ``generation_config.json`` (stop tokens); None where it has none.
        kv_scales: full name of an attention -> scales of its keys and values; empty unless the scheme's ``kv_cache``
            is static.
    """

    weights: Mapping[str, QuantizedWeight]
    rest: Mapping[str, Tensor]
    scheme: Scheme
    config: dict[str, Any]
    task: str = "causal_lm"
    tied: list[list[str]] = field(default_factory=list)
    conv1d: list[str] = field(default_factory=list)
    generation_config: dict[str, Any] | None = None
    kv_scales: Mapping[str, KVScales] = field(default_factory=dict)

    @classmethod
    @torch.no_grad()
    def freeze(
        cls,
        model: nn.Module,
        scheme: Scheme,
        task: str = "causal_lm",
        rest_dtype: torch.dtype | None = None,
    ) -> QuantizedCheckpoint:
        """Turn a prepared model into integers, with the very functions that its forward pass uses.

        Args:
            model: prepared and trained (or only prepared: then it is round to nearest).
            scheme: the scheme it was prepared with.
            task: see the class.
            rest_dtype: float32, bfloat16 or float16, to which every parameter that is not quantized is rounded,
                here and nowhere else; None leaves them as they are in memory. Buffers always stay as they are.

        Raises:
            InputError: nothing is prepared, a quantizer is not at the scheme's bits, an activation has no range, or
                a parameter is too large for ``rest_dtype``.
            RunError: a weight or scale that is not finite, which is named.
        """
        prepared = hosts(model)
        if not prepared:
            raise InputError("the model has no fake quantizers: prepare it before freezing")
        if (scheme.kv_cache is None) != (not kv_caches(model)):
            raise InputError("the model was prepared with another kv_cache; freeze with its own scheme")
        for name, quantizer in quantizers(model).items():
            check_final(quantizer, name)
        if missing := uncalibrated(model):
            raise InputError(f"{missing[0]} has no range yet: calibrate static activations before freezing")
        ties = model_ties(model)
        followers = {name for group in ties for name in group[1:]}
        weights = {
            name: freeze_host(name, host) for name, host in prepared.items() if f"{name}.weight" not in followers
        }
        rest = unquantized(model, set(prepared), followers, rest_dtype)
        config, generation = config_of(model, rest_dtype), generation_config_of(model)
        conv1d, scales = stored_transposed(model), freeze_caches(model)
        return cls(weights, rest, scheme, config, task, ties, conv1d, generation, scales)

    @property
    def nbytes(self) -> int:
        """Bytes of the model at its own widths: codes packed to their bits, scales, zero points and the rest."""
        total = sum(tensor.nbytes for tensor in (*self.rest_layout.values(), *self.kv_tensors.values()))
        for entry in self.weights.values():
            layout = entry.layout
            total += layout.scale.nbytes
            for integers in (layout.codes, layout.zero_point):
                if integers is not None:
                    total += (integers.numel() * entry.args.num_bits + 7) // 8
        return total

    @property
    def rest_layout(self) -> dict[str, Tensor]:
        """Shapes and dtypes of ``rest``, without its numbers: tensors on the meta device."""
        if isinstance(self.rest, LazyTensors):
            return {name: tensor.layout for name, tensor in self.rest.rows.items()}
        return {name: tensor.to("meta") for name, tensor in self.rest.items()}

    @property
    def kv_tensors(self) -> dict[str, Tensor]:
        """The scales of keys and values by their names in files, which are compressed-tensors' own."""
        pairs = {name: (scales.key, scales.value) for name, scales in self.kv_scales.items()}
        return {f"{name}.{KV_PARTS[i]}": tensor for name, pair in pairs.items() for i, tensor in enumerate(pair)}

    def rest_blocks(self, name: str) -> Iterator[Tensor]:
        """An unquantized tensor in blocks of rows, which are small where ``rest`` is lazy; one is no block to keep."""
        if isinstance(self.rest, LazyTensors):
            return self.rest.rows[name].blocks()
        return iter((self.rest[name],))

    def save(self, directory: Path, tokenizer: Any = None) -> None:
        """Write the folder; it appears under its name only when it is complete.

        Args:
            directory: must not exist.
            tokenizer: saved beside it when given.

        Raises:
            InputError: the folder exists.
        """
        with new_folder(directory) as temporary:
            self._write(temporary, tokenizer)

    def _write(self, temporary: Path, tokenizer: Any) -> None:
        if tokenizer is not None:
            save_tokenizer(tokenizer, temporary)
        layout = self.rest_layout | {name: tensor.to("meta") for name, tensor in self.kv_tensors.items()}
        for name, entry in self.weights.items():
            layout |= {full: tensor.to("meta") for full, tensor in _parts(name, entry, entry.layout)}
        write_tensors(temporary, layout, self._tensors(), MAX_SHARD_SIZE)
        (temporary / "config.json").write_text(json.dumps(self.config, indent=2, sort_keys=True) + "\n")
        self.write_generation_config(temporary)
        files = {path.name: sha256(path) for path in sorted(temporary.iterdir())}
        manifest: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "task": self.task,
            "scheme": self.scheme.to_dict(),
            "modules": {
                name: {"kind": entry.kind, "scheme": entry.scheme.model_dump(mode="json")}
                for name, entry in self.weights.items()
            },
            "tied": self.tied,
            "conv1d": self.conv1d,
            "files": files,
        }
        if self.kv_scales:
            manifest[KV_CACHE] = list(self.kv_scales)
        manifest[SELF] = digest_of(manifest)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")

    def write_generation_config(self, directory: Path) -> None:
        """Write ``generation_config.json`` into ``directory``, if the model has one."""
        if self.generation_config is not None:
            text = json.dumps(self.generation_config, indent=2, sort_keys=True)
            (directory / GENERATION).write_text(text + "\n")

    @classmethod
    def load(cls, directory: Path) -> QuantizedCheckpoint:
        """Read a folder written by :meth:`save`, after checking every file.

        Raises:
            InputError: see :func:`qat.manifest.verify`.
        """
        manifest = verify(directory)
        tensors = TensorFolder(directory)
        weights: dict[str, QuantizedWeight] = {}
        parts: set[str] = set()
        for name, entry in manifest["modules"].items():
            numbers = Deferred(on_meta(_read_grid(tensors, name)), partial(_read_grid, tensors, name))
            scheme = QuantizationScheme(**entry["scheme"])
            inputs = (tensors.get(f"{name}.{part}") for part in INPUT_PARTS)
            weights[name] = QuantizedWeight(numbers, scheme, entry["kind"], *inputs)
            parts.update(f"{name}.{part}" for part in WEIGHT_PARTS + INPUT_PARTS)
        scales = {name: read_kv_scales(tensors, name) for name in manifest.get(KV_CACHE, ())}
        parts.update(f"{name}.{part}" for name in scales for part in KV_PARTS)
        own = (name for name in tensors if name not in parts)
        rest = LazyTensors({name: Rows(tensors[name].to("meta"), partial(tensors.__getitem__, name)) for name in own})
        config = json.loads((directory / "config.json").read_text())
        generation = json.loads((directory / GENERATION).read_text()) if GENERATION in manifest["files"] else None
        whole, task = Scheme(**manifest["scheme"]), manifest["task"]
        tied, conv1d = manifest["tied"], manifest["conv1d"]
        return cls(weights, rest, whole, config, task, tied, conv1d, generation, scales)

    def _tensors(self) -> Iterator[tuple[str, Iterable[Tensor]]]:
        """Every tensor of the files with its name, in blocks; one module at a time."""
        for name in self.rest:
            yield name, self.rest_blocks(name)
        for name, tensor in self.kv_tensors.items():
            yield name, (tensor,)
        for name, entry in self.weights.items():
            for full, tensor in _parts(name, entry, entry.grid):
                yield full, (tensor,)


def model_ties(model: nn.Module) -> list[list[str]]:
    """The ties of a prepared model's own parameters: a quantizer that tied weights share has shared ranges too."""
    return [names for names in tied_groups(model) if "_fake_quantizer." not in names[0]]


def read_kv_scales(tensors: TensorFolder, name: str) -> KVScales:
    """Scales of the keys and values of the attention ``name``, in a checkpoint or an export.

    Raises:
        InputError: one is missing.
    """
    return KVScales(*(tensors.require(f"{name}.{part}") for part in KV_PARTS))


def _parts(name: str, entry: QuantizedWeight, grid: Grid) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one quantized module, ``grid`` being its numbers or its layout."""
    parts = (grid.codes, grid.scale, grid.zero_point, entry.input_scale, entry.input_zero_point)
    for part, tensor in zip(WEIGHT_PARTS + INPUT_PARTS, parts, strict=True):
        if tensor is not None:
            yield f"{name}.{part}", tensor


def _read_grid(tensors: TensorFolder, name: str) -> Grid:
    codes, scale, zero_point = (tensors.get(f"{name}.{part}") for part in WEIGHT_PARTS)
    if codes is None or scale is None:
        raise InputError(f"{tensors.directory} lacks the integers of {name}; {REPAIR}")
    return Grid(codes, scale, zero_point)
