"""Which scales a block allows, read from the block at work and not looked up by architecture.

Linears that get the very same tensor form a group; its producer is the norm whose output that tensor is, or an earlier
linear each of whose output rows reaches some input channels by a product only: ``v_proj`` through attention (rows are
shared by the heads of a group in grouped-query attention), ``up_proj`` through the gate, a linear through a ReLU.

Every candidate is tried with powers of two, which float arithmetic carries through a linear map without any rounding,
and kept only if the block's output stays what it was. So a tensor that someone else reads as well (the residual
of a post-norm block, a router) needs no rule: it fails.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from qat.ptq.fold import EXACT, Fold, Run, floating


@dataclass(frozen=True)
class Folds:
    """What a block allows.

    Attributes:
        exact: the folds, in the order in which their consumers run.
        refused: names of the linears whose input cannot be scaled, each with the reason.
        output: the block's output in float, which no exact fold changes.
    """

    exact: list[Fold]
    refused: dict[str, str]
    output: Tensor


@torch.no_grad()
def find_folds(module: nn.Module, run: Run) -> Folds:
    """Every exact fold of a block.

    Args:
        module: the block; its linears are called once a run.
        run: runs it on a batch of some hundred tokens; it is called two or three times a fold.
    """
    with floating(module):
        trace = _Trace.of(module, run)
        exact: list[Fold] = []
        refused: dict[str, str] = {}
        for consumers in trace.groups():
            fold = _from_norm(trace, consumers, run) or _from_linear(trace, consumers, run)
            if fold is None:
                refused |= dict.fromkeys(consumers, _why_not(trace, consumers))
            else:
                exact.append(fold)
    return Folds(exact, refused, trace.output)


@dataclass(frozen=True)
class _Trace:
    """Which tensors went into the linears of a block and came out of its linears and norms, in the order of the run."""

    linears: dict[str, nn.Linear]
    inputs: dict[str, Tensor]
    norms: dict[str, tuple[nn.Module, Tensor]]
    output: Tensor

    @classmethod
    def of(cls, module: nn.Module, run: Run) -> _Trace:
        linears: dict[str, nn.Linear] = {}
        inputs: dict[str, Tensor] = {}
        norms: dict[str, tuple[nn.Module, Tensor]] = {}

        def saw_linear(name: str, linear: nn.Linear, given: tuple[Tensor, ...], _: Tensor) -> None:
            linears.setdefault(name, linear)
            inputs.setdefault(name, given[0])

        def saw_norm(name: str, norm: nn.Module, _: tuple[Tensor, ...], output: object) -> None:
            if isinstance(output, Tensor) and output.shape[-1:] == norm.get_parameter("weight").shape:
                norms.setdefault(name, (norm, output))

        with ExitStack() as hooks:
            for name, part in module.named_modules():
                if isinstance(part, nn.Linear):
                    hooks.callback(part.register_forward_hook(partial(saw_linear, name)).remove)
                elif getattr(getattr(part, "weight", None), "ndim", 0) == 1:
                    hooks.callback(part.register_forward_hook(partial(saw_norm, name)).remove)
            output = run()
        return cls(linears, inputs, norms, output)

    def groups(self) -> list[dict[str, nn.Linear]]:
        """Linears by the tensor that they read. All tensors are held, so an address is one tensor's."""
        found: dict[tuple[int, torch.Size], dict[str, nn.Linear]] = {}
        for name, linear in self.linears.items():
            tensor = self.inputs[name]
            found.setdefault((tensor.data_ptr(), tensor.shape), {})[name] = linear
        return list(found.values())

    def norm_of(self, consumer: str) -> tuple[str, nn.Module] | None:
        """The norm whose output a linear reads."""
        address = self.inputs[consumer].data_ptr()
        return next(((name, norm) for name, (norm, out) in self.norms.items() if out.data_ptr() == address), None)

    def before(self, consumer: str) -> list[str]:
        """The linears that ran before this one read its input, the last one first."""
        names = list(self.linears)
        return names[: names.index(consumer)][::-1]


def _why_not(trace: _Trace, consumers: dict[str, nn.Linear]) -> str:
    norm = trace.norm_of(next(iter(consumers)))
    if norm is not None:
        return f"the output of {norm[0]} is read elsewhere too"
    return "no norm or linear reaches its input channel by channel"


def _powers_of_two(size: int, device: torch.device) -> Tensor:
    """Factors 1/4 to 4, which neighbours do not share."""
    return torch.exp2((torch.arange(size, device=device) * 3 % 5 - 2).float())


def _from_norm(trace: _Trace, consumers: dict[str, nn.Linear], run: Run) -> Fold | None:
    first = next(iter(consumers))
    found = trace.norm_of(first)
    if found is None:
        return None
    name, norm = found
    device = consumers[first].weight.device
    size = consumers[first].in_features
    for offset in (0.0, 1.0):
        fold = Fold(consumers, norm, name, torch.arange(size, device=device), size, offset)
        if fold.is_exact(_powers_of_two(size, device), run, trace.output):
            return fold
    return None


def _from_linear(trace: _Trace, consumers: dict[str, nn.Linear], run: Run) -> Fold | None:
    first = next(iter(consumers))
    if trace.norm_of(first) is not None:
        return None
    width = consumers[first].in_features
    for name in trace.before(first):
        producer = trace.linears[name]
        if name in consumers:
            continue
        for size in _possible_sizes(producer.out_features, width):
            index = _row_of_each_channel(consumers[first], trace.inputs[first], producer, size, run)
            if index is None:
                continue
            fold = Fold(consumers, producer, name, index, size)
            if fold.is_exact(_powers_of_two(size, index.device), run, trace.output):
                return fold
    return None


def _possible_sizes(rows: int, width: int) -> list[int]:
    """How many of the last rows may feed ``width`` channels: all of them, or the last part of a fused linear.

    A fused ``gate_up`` has as many rows for ``up`` as there are channels, a fused ``qkv`` ``width + 2 * size`` rows.
    """
    sizes = [rows] if rows <= width else [width, (rows - width) // 2]
    return [size for size in dict.fromkeys(sizes) if 0 < size <= rows and width % size == 0]


def _row_of_each_channel(
    consumer: nn.Linear, before: Tensor, producer: nn.Linear, size: int, run: Run
) -> Tensor | None:
    """Multiply each row by a factor of its own: the factor that a channel is then multiplied by tells its row.

    Returns:
        int64 [in], or None where a channel is not multiplied by one row's factor for all tokens alike.
    """
    device = producer.weight.device
    factors = torch.exp2(torch.linspace(-1, 1, size, dtype=torch.float64, device=device))
    nobody = Fold({}, producer, "", torch.arange(0, device=device), size)
    with nobody.applied(1 / factors.float()):
        after = _input_of(consumer, run)
    x, y = (tensor.reshape(-1, tensor.shape[-1]).double() for tensor in (before, after))
    factor = (x * y).sum(0) / x.square().sum(0)
    if size == x.shape[-1]:  # a channel that is always 0 (behind a ReLU) shows no factor: it is in its place if all are
        factor = torch.where(torch.isnan(factor), factors, factor)
    index = torch.searchsorted((factors[1:] + factors[:-1]) / 2, factor)  # of the nearest one
    if not bool(torch.isfinite(factor).all()) or bool((y - x * factors[index]).norm() > EXACT * y.norm()):
        return None
    return index


def _input_of(linear: nn.Linear, run: Run) -> Tensor:
    seen: list[Tensor] = []
    handle = linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        run()
    finally:
        handle.remove()
    return seen[0]
