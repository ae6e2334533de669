"""Put some weights of a float model on grids of any width, for as long as it takes to measure the damage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from compressed_tensors.quantization import QuantizationArgs
from torch import Tensor, nn

from qat.errors import InputError
from qat.evaluate.forward import Forward, outputs
from qat.fake_quant import FakeQuantizer
from qat.fake_quant.base import Layout
from qat.grid import MAX_BITS, MIN_BITS, Grid, group_count
from qat.hosts import hosts
from qat.mixed_precision.units import Unit
from qat.ptq.base import DataFreePTQ


class Probe:
    """A prepared model whose weights are float, but for those that are being measured.

    Quantized activations stay on: they are the same at every width, so they are part of the ground on which widths are
    compared.

    Args:
        model: prepared, and calibrated where it has static activations; its weight quantizers are taken out.
        algorithm: sets the range of a weight.
        score: the damage of the model as it stands.
    """

    def __init__(self, model: nn.Module, algorithm: DataFreePTQ, score: Callable[[nn.Module], float]) -> None:
        self.model = model
        self._algorithm = algorithm
        self._score = score
        self._hosts = hosts(model)
        self._like: dict[str, FakeQuantizer] = {}
        for name, host in self._hosts.items():
            self._like[name], host.weight_fake_quantizer = host.weight_fake_quantizer, None

    def damage(self, bits: Mapping[str, int]) -> float:
        """The score with the weights of some modules at so many bits each, and all others float."""
        with self.rounded(bits):
            return self._score(self.model)

    @contextmanager
    @torch.no_grad()
    def rounded(self, bits: Mapping[str, int]) -> Iterator[None]:
        """Inside, the weights of the named modules are the values of their grids; tied weights count once."""
        kept: dict[int, tuple[Tensor, Tensor]] = {}
        try:
            for name, width in bits.items():
                weight = self._hosts[name].weight
                if id(weight) not in kept:
                    value = self._grid(name, width).value().to(weight.dtype)
                    kept[id(weight)] = (weight, weight.detach().clone())
                    weight.copy_(value)
            yield
        finally:
            with torch.no_grad():
                for weight, before in kept.values():
                    weight.copy_(before)

    def weights(self, modules: Iterable[str]) -> int:
        """How many numbers the weights of these modules hold; tied ones count once."""
        return sum(self._hosts[name].weight.numel() for name in self._owners(modules))

    def nbytes(self, modules: Iterable[str], width: int) -> int:
        """Bytes of these modules in a checkpoint: codes packed to ``width`` bits, scales and zero points."""
        return sum(self._nbytes(name, width) for name in self._owners(modules))

    def _owners(self, modules: Iterable[str]) -> list[str]:
        return list({id(self._hosts[name].weight): name for name in modules}.values())

    def _nbytes(self, name: str, width: int) -> int:
        weight, like = self._hosts[name].weight, self._like[name]
        groups = 1
        for count in group_count(tuple(weight.shape), like.args):
            groups *= count
        zero_points = 0 if like.args.symmetric else _packed(groups, width)
        return _packed(weight.numel(), width) + zero_points + groups * like.scale_format.dtype.itemsize

    def _grid(self, name: str, width: int) -> Grid:
        weight, like = self._hosts[name].weight, self._like[name]
        args: QuantizationArgs = like.args.model_copy(update={"num_bits": width})
        layout = Layout(*group_count(tuple(weight.shape), args), narrow_range=like.narrow_range)
        quantizer = like.config.build(args, layout, like.scale_format.name).to(weight.device)
        self._algorithm.set_range(quantizer, weight)
        return quantizer.grid(weight)


def check_widths(widths: Iterable[int]) -> list[int]:
    """The widths in ascending order.

    Raises:
        InputError: none, one twice, or one that no grid has.
    """
    found = sorted(widths)
    if not found or len(set(found)) < len(found):
        raise InputError(f"widths={found} must name one or more widths, each once, as in widths=[2,3,4,8]")
    for width in found:
        if not MIN_BITS <= width <= MAX_BITS:
            raise InputError(f"widths={found}: {width} bits have no grid; allowed are {MIN_BITS} to {MAX_BITS}")
    return found


def at(units: Iterable[Unit], width: int) -> dict[str, int]:
    """Every module of ``units`` at one width."""
    return {name: width for unit in units for name in unit.modules}


class Remembered:
    """A model as a function that computes the same tokens once, as long as what it keeps is not too large.

    Args:
        model: the float reference.
        limit: bytes of outputs that are kept; what comes after is computed each time.
    """

    def __init__(self, model: nn.Module | Forward, limit: int = 1 << 30) -> None:
        self._model = model
        self._left = limit
        self._kept: dict[bytes, Tensor] = {}

    def __call__(self, input_ids: Tensor) -> Tensor:
        """See :data:`qat.evaluate.forward.Forward`."""
        key = input_ids.cpu().numpy().tobytes()
        if (found := self._kept.get(key)) is not None:
            return found
        result = outputs(self._model, input_ids)
        if result.nbytes <= self._left:
            self._left -= result.nbytes
            self._kept[key] = result
        return result


def _packed(numbers: int, width: int) -> int:
    return (numbers * width + 7) // 8
