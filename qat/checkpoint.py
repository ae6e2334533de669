"""The quantized checkpoint: codes, scales and the unquantized rest, made once and read by every exporter.

Files of a checkpoint folder::

    model.safetensors    <module>.weight.codes int8, .weight.scale, .weight.zero_point, <module>.input.scale, ...,
                         and every unquantized tensor under its own name
    config.json          the model's own configuration; `dtype` is that of the unquantized tensors
    generation_config.json  stop tokens and sampling defaults, of a model that generates
    manifest.json        format version, scheme, grid of every module, ties, sha256 of every file
    tokenizer files
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qat.convert import check_final
from qat.errors import InputError, RunError
from qat.grid import Grid
from qat.hosts import hosts, quantizers, uncalibrated
from qat.models.conv1d import stored_transposed
from qat.models.outputs import tied_groups
from qat.models.tokenizer import save_tokenizer
from qat.paths import publish, temporary_beside
from qat.rest import config_of, generation_config_of, unquantized
from qat.scheme import Scheme

FORMAT_VERSION = 1
TENSORS = "model.safetensors"
MANIFEST = "manifest.json"
GENERATION = "generation_config.json"


@dataclass(frozen=True)
class QuantizedWeight:
    """One quantized module.

    Attributes:
        grid: codes and scale of the weight, [out, in] (or [vocabulary, features] of an embedding).
        scheme: what the module was quantized to, any group fallback applied.
        kind: ``Linear`` or ``Embedding``.
        input_scale: scale of a static input activation, float32 [1], or None.
        input_zero_point: its zero point, int8 [1], or None.
    """

    grid: Grid
    scheme: QuantizationScheme
    kind: str
    input_scale: Tensor | None = None
    input_zero_point: Tensor | None = None

    @property
    def args(self) -> QuantizationArgs:
        """Bits, symmetry and strategy of the weight."""
        assert self.scheme.weights is not None
        return self.scheme.weights


@dataclass(frozen=True)
class ReadModule:
    """The numbers of one quantized module as an exporter reads them back.

    Attributes:
        grid: codes and scale of the weight, shaped as those of :class:`QuantizedWeight`.
        input_scale: scale of a static input activation; None where the file has none.
        input_zero_point: its zero point, or None.
    """

    grid: Grid
    input_scale: Tensor | None = None
    input_zero_point: Tensor | None = None


@dataclass
class QuantizedCheckpoint:
    """What was trained, in integers.

    Attributes:
        weights: module name -> its integers. Modules that share a weight share one entry: the first name.
        rest: unquantized tensors by ``state_dict`` name; of tied tensors only the first name.
        scheme: the scheme as it was written.
        config: the model's ``config.json``; its ``dtype`` is that of the unquantized weights.
        task: ``causal_lm``, ``masked_lm`` or ``encoder``.
        tied: groups of parameter names that are one tensor.
        conv1d: modules that were GPT-2's ``Conv1D``; their codes are [out, in] like those of a Linear.
        generation_config: the model's ``generation_config.json`` (stop tokens); None where it has none.
    """

    weights: dict[str, QuantizedWeight]
    rest: dict[str, Tensor]
    scheme: Scheme
    config: dict[str, Any]
    task: str = "causal_lm"
    tied: list[list[str]] = field(default_factory=list)
    conv1d: list[str] = field(default_factory=list)
    generation_config: dict[str, Any] | None = None

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
        for name, quantizer in quantizers(model).items():
            check_final(quantizer, name)
        if missing := uncalibrated(model):
            raise InputError(f"{missing[0]} has no range yet: calibrate static activations before freezing")
        # A quantizer shared by tied weights has shared ranges; only the model's own ties are kept.
        ties = [names for names in tied_groups(model) if "_fake_quantizer." not in names[0]]
        followers = {name for group in ties for name in group[1:]}
        weights = {
            name: _freeze_host(name, host) for name, host in prepared.items() if f"{name}.weight" not in followers
        }
        rest = unquantized(model, set(prepared), followers, rest_dtype)
        config, generation = config_of(model, rest_dtype), generation_config_of(model)
        return cls(weights, rest, scheme, config, task, ties, stored_transposed(model), generation)

    @property
    def nbytes(self) -> int:
        """Bytes of the model at its own widths: codes packed to their bits, scales, zero points and the rest."""
        total = sum(tensor.nbytes for tensor in self.rest.values())
        for entry in self.weights.values():
            total += entry.grid.scale.nbytes
            for integers in (entry.grid.codes, entry.grid.zero_point):
                if integers is not None:
                    total += (integers.numel() * entry.args.num_bits + 7) // 8
        return total

    def save(self, directory: Path, tokenizer: Any = None) -> None:
        """Write the folder; it appears under its name only when it is complete.

        Args:
            directory: must not exist.
            tokenizer: saved beside it when given.

        Raises:
            InputError: the folder exists.
        """
        temporary = temporary_beside(directory)
        try:
            self._write(temporary, tokenizer)
            publish(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _write(self, temporary: Path, tokenizer: Any) -> None:
        if tokenizer is not None:
            save_tokenizer(tokenizer, temporary)
        save_file(self._tensors(), temporary / TENSORS, metadata={"format": "pt"})
        (temporary / "config.json").write_text(json.dumps(self.config, indent=2, sort_keys=True) + "\n")
        self.write_generation_config(temporary)
        files = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
        manifest = {
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
            InputError: see :func:`verify`.
        """
        manifest = verify(directory)
        try:
            tensors = load_file(directory / TENSORS)
        except SafetensorError as error:
            raise InputError(f"{directory / TENSORS} is not a safetensors file: {error}") from None
        weights = {}
        for name, entry in manifest["modules"].items():
            grid = Grid(
                tensors.pop(f"{name}.weight.codes"),
                tensors.pop(f"{name}.weight.scale"),
                tensors.pop(f"{name}.weight.zero_point", None),
            )
            weights[name] = QuantizedWeight(
                grid,
                QuantizationScheme(**entry["scheme"]),
                entry["kind"],
                tensors.pop(f"{name}.input.scale", None),
                tensors.pop(f"{name}.input.zero_point", None),
            )
        config = json.loads((directory / "config.json").read_text())
        generation = json.loads((directory / GENERATION).read_text()) if GENERATION in manifest["files"] else None
        scheme, task = Scheme(**manifest["scheme"]), manifest["task"]
        return cls(weights, tensors, scheme, config, task, manifest["tied"], manifest["conv1d"], generation)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {name: tensor.contiguous() for name, tensor in self.rest.items()}
        for name, entry in self.weights.items():
            parts = {
                "weight.codes": entry.grid.codes,
                "weight.scale": entry.grid.scale,
                "weight.zero_point": entry.grid.zero_point,
                "input.scale": entry.input_scale,
                "input.zero_point": entry.input_zero_point,
            }
            tensors |= {f"{name}.{part}": t.contiguous() for part, t in parts.items() if t is not None}
        return tensors


def verify(directory: Path) -> dict[str, Any]:
    """Check the sha256 of every file of a checkpoint folder and return its manifest.

    Raises:
        InputError: no such checkpoint, another format version, or a file that is missing or altered, which is named.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise InputError(f"{directory} is no quantized checkpoint: it has no {MANIFEST}")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        version, files = manifest["format_version"], dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); make the checkpoint again") from None
    if version != FORMAT_VERSION:
        raise InputError(f"{path} has format version {version}; this qat reads version {FORMAT_VERSION}")
    for name, digest in files.items():
        if Path(name).name != name:
            raise InputError(f"{path} names '{name}', which is not a file of its own folder")
        if not (directory / name).is_file():
            raise InputError(f"{directory / name} is missing; make the checkpoint again")
        if _sha256(directory / name) != digest:
            raise InputError(f"{directory / name} is damaged: its sha256 is not the manifest's; make it again")
    return manifest


def _freeze_host(name: str, host: Any) -> QuantizedWeight:
    grid = host.weight_fake_quantizer.grid(host.weight)
    if not torch.isfinite(host.weight).all():
        raise RunError(f"{name}.weight holds numbers that are not finite; the checkpoint was not written")
    if not torch.isfinite(grid.scale).all():
        raise RunError(f"{name} has a scale that is not finite; the checkpoint was not written")
    kind = "Embedding" if isinstance(host, nn.Embedding) else "Linear"
    inputs = getattr(host, "activation_fake_quantizer", None)
    if inputs is None or inputs.args.dynamic:
        return QuantizedWeight(_on_cpu(grid), host.quantization_scheme, kind)
    scale, zero_point = inputs.scale_and_zero_point(host.weight)
    zero = None if zero_point is None else zero_point.reshape(1).to(torch.int8).cpu()
    return QuantizedWeight(_on_cpu(grid), host.quantization_scheme, kind, scale.detach().reshape(1).cpu(), zero)


def _on_cpu(grid: Grid) -> Grid:
    return Grid(grid.codes.cpu(), grid.scale.cpu(), None if grid.zero_point is None else grid.zero_point.cpu())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
