"""One quantized module of a checkpoint, and the same numbers as an exporter reads them back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from torch import Tensor

from qat.grid import Grid
from qat.tensor_files import row_blocks

T = TypeVar("T")


class Lazy(Mapping[str, T], Generic[T]):
    """A mapping whose values are read, or computed, at each access, and not kept.

    Args:
        sources: name -> what gives its value.
    """

    def __init__(self, sources: Mapping[str, Callable[[], T]]) -> None:
        self._sources = sources

    def __getitem__(self, name: str) -> T:
        return self._sources[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._sources

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


@dataclass(frozen=True)
class Rows:
    """A tensor that can be read some rows at a time, so that no more of it is in memory.

    Attributes:
        layout: its shape and dtype, on the meta device.
        source: gives the tensor as it is stored, mapped from its file anew: pages that were read go with it.
        convert: from the stored to the wanted tensor, row by row.
    """

    layout: Tensor
    source: Callable[[], Tensor]
    convert: Callable[[Tensor], Tensor] = lambda tensor: tensor

    def whole(self) -> Tensor:
        """All rows."""
        return self.convert(self.source())

    def blocks(self) -> Iterator[Tensor]:
        """The rows, block after block; what has no rows comes whole."""
        if self.layout.ndim == 0:
            yield self.whole()
            return
        for rows in row_blocks(self.layout):
            yield self.convert(self.source()[rows])


class LazyTensors(Lazy[Tensor]):
    """Tensors that are read at each access, whole or in blocks of rows.

    Args:
        rows: name -> how to read its tensor.
    """

    def __init__(self, rows: Mapping[str, Rows]) -> None:
        super().__init__({name: tensor.whole for name, tensor in rows.items()})
        self.rows = rows


@dataclass(frozen=True)
class Deferred:
    """A grid that is read, or computed, when it is asked for.

    Attributes:
        layout: its shapes and dtypes: tensors on the meta device.
        make: gives the grid itself.
    """

    layout: Grid
    make: Callable[[], Grid]


@dataclass(frozen=True)
class QuantizedWeight:
    """One quantized module.

    Attributes:
        numbers: codes and scale of the weight, [out, in] (or [vocabulary, features] of an embedding), or how to get
            them.
        scheme: what the module was quantized to, any group fallback applied.
        kind: ``Linear`` or ``Embedding``.
        input_scale: scale of a static input activation, float32 [1], or None.
        input_zero_point: its zero point, int8 [1], or None.
    """

    numbers: Grid | Deferred
    scheme: QuantizationScheme
    kind: str
    input_scale: Tensor | None = None
    input_zero_point: Tensor | None = None

    @property
    def grid(self) -> Grid:
        """Codes and scale. Deferred ones are made anew at each access: take them once and let them go."""
        return self.numbers.make() if isinstance(self.numbers, Deferred) else self.numbers

    @property
    def layout(self) -> Grid:
        """Shapes and dtypes of :attr:`grid`, without its numbers: tensors on the meta device."""
        return self.numbers.layout if isinstance(self.numbers, Deferred) else on_meta(self.numbers)

    @property
    def shape(self) -> torch.Size:
        """[out, in]."""
        return self.layout.codes.shape

    @property
    def args(self) -> QuantizationArgs:
        """Bits, symmetry and strategy of the weight."""
        assert self.scheme.weights is not None
        return self.scheme.weights

    def without_numbers(self) -> QuantizedWeight:
        """The same module with its layout in place of its grid: what a file of it will look like."""
        return replace(self, numbers=self.layout)


@dataclass(frozen=True)
class KVScales:
    """Scales of the static keys and values of one attention, float32 [1] each, symmetric.

    Attributes:
        key: of the keys.
        value: of the values.
    """

    key: Tensor
    value: Tensor


@dataclass(frozen=True)
class ReadModule:
    """The numbers of one quantized module as an exporter reads them back.

    Attributes:
        weight: codes and scale, shaped as those of :class:`QuantizedWeight`; its values alone, float [out, in],
            where the file has no integers.
        input_scale: scale of a static input activation; None where the file has none.
        input_zero_point: its zero point, or None.
    """

    weight: Grid | Tensor
    input_scale: Tensor | None = None
    input_zero_point: Tensor | None = None


def on_meta(grid: Grid) -> Grid:
    """Shapes and dtypes of ``grid``."""
    zero_point = None if grid.zero_point is None else grid.zero_point.to("meta")
    return Grid(grid.codes.to("meta"), grid.scale.to("meta"), zero_point)
