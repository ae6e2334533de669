"""Quantize a model that does not fit in memory: tensor by tensor, as they are asked for.

The codes and scales are those of prepare, :class:`~qat.ptq.base.DataFreePTQ` and freeze, bit for bit: the same fake
quantizers round the same numbers. A weight is quantized a few rows at a time, so that what lies between two steps
stays in a core's own cache; that alone makes it several times faster than a step on the whole weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy
from torch import Tensor

from qat.checkpoint import QuantizedCheckpoint, model_ties
from qat.errors import InputError
from qat.fake_quant import FakeQuantizer
from qat.fake_quant.base import Layout
from qat.freezing import finite_grid, kind_of
from qat.grid import Grid, group_count
from qat.hosts import Host, hosts
from qat.models.conv1d import stored_transposed
from qat.models.loaded import Task
from qat.models.skeleton import Skeleton, open_skeleton
from qat.observers.minmax import MinMax
from qat.prepare import prepare
from qat.ptq.base import PTQ, DataFreePTQ
from qat.quantized import Deferred, LazyTensors, QuantizedWeight, Rows
from qat.rest import DTYPES, config_of, generation_config_of, rest_dtypes, rounded
from qat.scheme import Scheme

_CHUNK = 1 << 18
"""Numbers quantized at once."""
_MAPPED = 64
"""Pieces of that size that are read from one mapping of a file."""
_AHEAD = 1 << 28
"""Numbers of the largest weight that is quantized while another one is in memory."""


def stream(
    directory: Path,
    scheme: Scheme,
    algorithm: PTQ,
    rest_dtype: torch.dtype | None = None,
    task: Task | None = None,
) -> QuantizedCheckpoint:
    """Quantize a model folder without loading it.

    Nothing is read but headers until ``weights`` and ``rest`` of the result are: each access reads one tensor, and
    while the caller works on one module, the next is quantized in a second thread.

    Args:
        directory: ``config.json`` and safetensors files, named as transformers names the model's tensors.
        scheme: what to quantize; its activations must be dynamic.
        algorithm: one that needs no data.
        rest_dtype: as in :meth:`QuantizedCheckpoint.freeze`.
        task: which head; None: as ``config.json`` says.

    Raises:
        InputError: a folder, scheme or algorithm that cannot be streamed, with the reason; when a tensor is read, a
            number that is too large for ``rest_dtype``.
        RunError: when a weight is read that is not finite.

    Example:
        >>> checkpoint = stream(Path("models/llama-70b"), preset("w4a16_g128"), RTN(MinMax()), torch.bfloat16)
        >>> checkpoint.save(Path("quantized"))  # with the memory of two layers
    """
    if not isinstance(algorithm, DataFreePTQ):
        raise InputError(
            f"{type(algorithm).__name__} looks at the whole model at work, so it cannot be streamed; "
            "leave stream out, or take an algorithm that needs no data: ptq=rtn"
        )
    skeleton = open_prepared(directory, scheme, task)
    return lazy_checkpoint(skeleton, scheme, Numbers(skeleton, algorithm), rest_dtype)


def open_prepared(directory: Path, scheme: Scheme, task: Task | None = None) -> Skeleton:
    """The skeleton of a model folder with the fake quantizers of ``scheme`` in it, all on the meta device.

    Raises:
        InputError: a folder or scheme that cannot be streamed, with the reason.
    """
    if scheme.has_static_activations:
        raise InputError(
            "static activations, keys and values included, get their range from data, which needs the whole model "
            "at work; make them dynamic, or leave stream out"
        )
    skeleton = open_skeleton(Path(directory), task)
    prepare(skeleton.model, scheme, observer=MinMax())
    return skeleton


@dataclass(frozen=True)
class Numbers:
    """Where the numbers of a streamed model come from.

    Attributes:
        skeleton: prepared.
        algorithm: sets the ranges of weights.
    """

    skeleton: Skeleton
    algorithm: DataFreePTQ

    def grid(self, name: str, like: FakeQuantizer, layout: Grid) -> Grid:
        """Codes and scale of the weight of the module ``name``, by a quantizer like ``like``."""
        return _quantize(self.skeleton, name, like, self.algorithm, layout)

    def rest(self, name: str) -> Tensor:
        """An unquantized tensor, as it is stored."""
        return self.skeleton.read(name)


def lazy_checkpoint(
    skeleton: Skeleton, scheme: Scheme, numbers: Numbers, rest_dtype: torch.dtype | None
) -> QuantizedCheckpoint:
    """The checkpoint of a prepared skeleton, each of whose numbers is asked of ``numbers`` when it is read."""
    model = skeleton.model
    prepared, ties = hosts(model), model_ties(model)
    followers = {name for group in ties for name in group[1:]}
    leaders = {name: host for name, host in prepared.items() if f"{name}.weight" not in followers}
    weights = {name: _weight(numbers, name, host) for name, host in leaders.items()}
    state, dtypes = model.state_dict(), rest_dtypes(model, set(prepared), followers, rest_dtype)
    rest = LazyTensors({name: _rest(numbers, name, state[name].to("meta"), dtype) for name, dtype in dtypes.items()})
    config, generation = config_of(model, rest_dtype), generation_config_of(model)
    return QuantizedCheckpoint(
        ReadAhead(weights), rest, scheme, config, skeleton.task, ties, stored_transposed(model), generation
    )


class ReadAhead(Mapping[str, QuantizedWeight]):
    """Weights of which one is quantized ahead: the next module's, while the caller works on this one's.

    Args:
        weights: with grids that are computed at access. Taken in another order than this they are still right, but
            nothing is ahead.
    """

    def __init__(self, weights: Mapping[str, QuantizedWeight]) -> None:
        names = list(weights)
        self._order = dict(zip([None, *names], names, strict=False))
        self._weights = weights
        self._last: str | None = None
        self._ahead: tuple[str, Future[Grid]] | None = None
        self._pool = ThreadPoolExecutor(1, "qat-stream")
        # One thread there and one here: torch's own would stand in each other's way. The limit is the thread's own, but
        # setting it also sets that of later threads, which is put back.
        threads = torch.get_num_threads()
        self._pool.submit(torch.set_num_threads, 1).result()
        torch.set_num_threads(threads)

    def __getitem__(self, name: str) -> QuantizedWeight:
        weight = self._weights[name]
        return replace(weight, numbers=Deferred(weight.layout, partial(self._take, name)))

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def _take(self, name: str) -> Grid:
        (ahead, self._ahead), (last, self._last) = (self._ahead, None), (self._last, name)
        ready = ahead[1].result() if ahead is not None and ahead[0] == name else None
        following = self._order.get(name)
        in_order = following is not None and self._order.get(last) == name
        if following is not None and in_order and self._weights[following].shape.numel() <= _AHEAD:
            self._ahead = following, self._pool.submit(lambda: self._weights[following].grid)
        return self._weights[name].grid if ready is None else ready


def _weight(numbers: Numbers, name: str, host: Host) -> QuantizedWeight:
    layout = host.weight_fake_quantizer.grid(host.weight)  # on the meta device, as the host is
    make = partial(numbers.grid, name, host.weight_fake_quantizer, layout)
    return QuantizedWeight(Deferred(layout, make), host.quantization_scheme, kind_of(host))


@torch.no_grad()
def _quantize(skeleton: Skeleton, name: str, like: FakeQuantizer, algorithm: DataFreePTQ, layout: Grid) -> Grid:
    """Codes and scale of one weight, computed some rows at a time with quantizers built as ``like`` was."""
    read = partial(skeleton.read, f"{name}.weight")
    whole = _empty(layout)  # made first: scales kept piece by piece lie between what is freed, which is then not reused
    quantizers: dict[int, FakeQuantizer] = {}
    start = 0
    for part in _parts(read, like.args):
        rows = part.contiguous().float()
        if len(rows) not in quantizers:
            groups = Layout(*group_count(tuple(rows.shape), like.args), narrow_range=like.narrow_range)
            quantizers[len(rows)] = like.config.build(like.args, groups, like.scale_format.name)
        algorithm.set_range(quantizers[len(rows)], rows)
        grid = finite_grid(name, quantizers[len(rows)], rows)
        here = slice(start, start + len(rows))
        whole.codes[here], whole.scale[here] = grid.codes, grid.scale
        if whole.zero_point is not None and grid.zero_point is not None:
            whole.zero_point[here] = grid.zero_point
        start += len(rows)
    return whole


def _empty(layout: Grid) -> Grid:
    zero_point = None if layout.zero_point is None else torch.empty_like(layout.zero_point, device="cpu")
    return Grid(torch.empty_like(layout.codes, device="cpu"), torch.empty_like(layout.scale, device="cpu"), zero_point)


def _parts(read: Callable[[], Tensor], args: QuantizationArgs) -> Iterator[Tensor]:
    """The rows of a weight, some at a time. It is mapped anew for every few, since read pages stay with a mapping."""
    pieces = _pieces(read(), args)
    for first in range(0, pieces, _MAPPED):
        yield from read().tensor_split(pieces)[first : first + _MAPPED]


def _pieces(weight: Tensor, args: QuantizationArgs) -> int:
    """Into how many pieces to cut: of at least two rows, since torch sums a single row in another order."""
    if args.strategy == QuantizationStrategy.TENSOR:
        return 1
    return max(1, min(len(weight) // 2, -(-weight.numel() // _CHUNK)))


def _rest(numbers: Numbers, name: str, in_memory: Tensor, dtype: torch.dtype | None) -> Rows:
    """An unquantized tensor: as it would be in memory (given on the meta device), rounded to ``dtype``."""
    layout = in_memory.to(dtype) if dtype is not None and in_memory.is_floating_point() else in_memory
    return Rows(layout, partial(numbers.rest, name), partial(_round, name, in_memory.dtype, dtype))


def _round(name: str, in_memory: torch.dtype, dtype: torch.dtype | None, tensor: Tensor) -> Tensor:
    """Round to ``in_memory``, then to ``dtype``: in one step where that is the same."""
    tensor = tensor.contiguous()
    if in_memory != torch.float32 or tensor.dtype not in DTYPES:
        tensor = tensor.to(in_memory)
    return rounded(name, tensor, dtype or in_memory)
