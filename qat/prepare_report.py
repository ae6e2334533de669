"""What prepare did: every module by full name, its scheme or why it was left."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from rich import box
from rich.table import Table


@dataclass(frozen=True)
class ModuleRow:
    """One module.

    Attributes:
        name: full name.
        kind: class name before it was swapped.
        parameters: its own parameters; a tied weight counts at its first module.
        scheme: its quantization, or None where it stayed float.
        reason: why it was left, or why it was added.
    """

    name: str
    kind: str
    parameters: int
    scheme: QuantizationScheme | None
    reason: str


@dataclass(frozen=True)
class PrepareReport:
    """Coverage of a prepared model.

    Attributes:
        rows: every module with parameters.
        caches: full names of the attentions whose keys and values are rounded.
        kv_cache: to what; None where they stay float.
    """

    rows: list[ModuleRow]
    caches: list[str] = field(default_factory=list)
    kv_cache: QuantizationArgs | None = None

    @property
    def quantized(self) -> list[ModuleRow]:
        """The rows that have a scheme."""
        return [row for row in self.rows if row.scheme is not None]

    @property
    def quantized_share(self) -> float:
        """Share of all parameters that lie in quantized modules, 0 to 1."""
        total = sum(row.parameters for row in self.rows)
        return sum(row.parameters for row in self.quantized) / max(total, 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, one entry a module."""
        cache = {} if self.kv_cache is None else {"scheme": _describe_args(self.kv_cache), "attentions": self.caches}
        return {
            "quantized_modules": len(self.quantized),
            "quantized_share": self.quantized_share,
            "modules": [
                {
                    "name": row.name,
                    "kind": row.kind,
                    "parameters": row.parameters,
                    "scheme": None if row.scheme is None else describe(row.scheme),
                    "reason": row.reason,
                }
                for row in self.rows
            ],
            **({"kv_cache": cache} if cache else {}),
        }

    def table(self) -> Table:
        """The report for a terminal: blocks that look alike are joined into one row, float small fry by class."""
        title = f"{len(self.quantized)} modules quantized, {self.quantized_share:.1%} of the parameters"
        table = Table(title=title, title_justify="left", box=box.SIMPLE)
        table.add_column("module", overflow="fold")
        table.add_column("parameters", justify="right")
        table.add_column("scheme", overflow="fold")
        for (name, what, quantized), (count, parameters) in self._joined().items():
            label = f"{name} x{count}" if count > 1 else name
            table.add_row(label, f"{parameters:,}", what, style=None if quantized else "dim")
        for name, count in Counter(map(_in_any_block, self.caches)).items():
            assert self.kv_cache is not None
            label = f"{name} x{count}" if count > 1 else name
            table.add_row(label, "0", f"keys and values {_describe_args(self.kv_cache)}")
        return table

    def _joined(self) -> dict[tuple[str, str, bool], tuple[int, int]]:
        joined: dict[tuple[str, str, bool], tuple[int, int]] = {}
        for row in self.rows:
            name = _in_any_block(row.name)
            if row.scheme is None and row.kind not in ("Linear", "Embedding"):
                name = row.kind
            what = f"float: {row.reason}" if row.scheme is None else describe(row.scheme)
            if row.scheme is not None and row.reason:
                what += f" ({row.reason})"
            key = (name, what, row.scheme is not None)
            count, parameters = joined.get(key, (0, 0))
            joined[key] = (count + 1, parameters + row.parameters)
        return joined


def _in_any_block(name: str) -> str:
    """``model.layers.3.mlp`` -> ``model.layers.*.mlp``."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def describe(scheme: QuantizationScheme) -> str:
    """A scheme in a few words, e.g. ``INT4 group 32, inputs INT8 token dynamic``."""
    parts = [] if scheme.weights is None else [_describe_args(scheme.weights)]
    if scheme.input_activations is not None:
        parts.append("inputs " + _describe_args(scheme.input_activations))
    return ", ".join(parts)


def _describe_args(args: QuantizationArgs) -> str:
    words = [f"INT{args.num_bits}", str(args.strategy)]
    if args.group_size:
        words.append(str(args.group_size))
    if not args.symmetric:
        words.append("asymmetric")
    if args.dynamic:
        words.append("dynamic")
    return " ".join(words)
