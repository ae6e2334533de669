"""One transformer block at work: its hosts, its calibration inputs, and what each host sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from qat.errors import InputError
from qat.fake_quant import FakeQuantizer
from qat.fake_quant.lsq import LSQFakeQuantizer
from qat.hosts import Host, hosts

HIDDEN = "hidden_states"
"""Name of the hidden states among the keyword arguments of a block, where they are not the first argument."""


@dataclass(frozen=True)
class BlockInput:
    """The arguments of a block's forward for one calibration batch.

    Attributes:
        args: positional; the first one, if there is any, is the hidden states.
        kwargs: by name: masks, positions and the like, and ``hidden_states`` where there is no positional argument.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def hidden(self) -> Tensor:
        """The hidden states, float [batch, tokens, hidden]."""
        hidden: Tensor = self.args[0] if self.args else self.kwargs[HIDDEN]
        return hidden

    def with_hidden(self, hidden: Tensor) -> BlockInput:
        """The same arguments with other hidden states."""
        if self.args:
            return BlockInput((hidden, *self.args[1:]), self.kwargs)
        return BlockInput((), {**self.kwargs, HIDDEN: hidden})

    def to(self, device: torch.device) -> BlockInput:
        """All tensors on ``device``."""
        move = partial(tree_map, lambda value: value.to(device) if isinstance(value, Tensor) else value)
        return BlockInput(move(self.args), move(self.kwargs))


@dataclass(frozen=True)
class OnDevice(Sequence[BlockInput]):
    """Inputs that are kept in main memory and come to ``device`` one at a time."""

    kept: list[BlockInput]
    device: torch.device

    def __getitem__(self, index: Any) -> Any:
        return self.kept[index].to(self.device)

    def __len__(self) -> int:
        return len(self.kept)


@dataclass(frozen=True)
class Block:
    """A transformer block that is to be quantized, on the device where it is worked on.

    When an algorithm gets it, every weight quantizer of the block is off (``enabled`` 0) and dynamic activation
    quantizers, those of keys and values too, are on: the block computes what the engine would with float weights.
    Static activation quantizers have no range yet and are off. Everything is on again when the block is done.

    Attributes:
        name: full name, e.g. ``model.layers.3``.
        module: in evaluation mode; parameters float32.
        hosts: full name -> host, in the order in which they run.
        groups: names of the hosts that read the very same tensor, in the order in which they run: ``q_proj``,
            ``k_proj`` and ``v_proj`` of a Llama are one group.
        batches: the calibration inputs, outputs of the blocks before as they are already quantized; on the device
            when iterated or indexed.
    """

    name: str
    module: nn.Module
    hosts: dict[str, Host]
    groups: list[list[str]]
    batches: Sequence[BlockInput]

    @classmethod
    def observed(cls, name: str, module: nn.Module, batches: Sequence[BlockInput]) -> Block:
        """The block, after one look at the order in which its hosts run and at what they share.

        Raises:
            InputError: a host that no calibration batch reaches.
        """
        named = {f"{name}.{inner}": host for inner, host in hosts(module).items()}
        groups: list[list[str]] = []
        for batch in batches:
            for group in _shared_inputs(module, named, batch):
                known = {host for names in groups for host in names}
                if fresh := [host for host in group if host not in known]:
                    groups.append(fresh)
            if sum(map(len, groups)) == len(named):
                break
        order = [host for group in groups for host in group]
        if missing := sorted(named.keys() - set(order)):
            raise InputError(f"no calibration data reached {missing[0]}; raise calibration_batches or ignore it")
        return cls(name, module, {host: named[host] for host in order}, groups, batches)

    def __call__(self, batch: BlockInput) -> Tensor:
        """The block's output hidden states, float [batch, tokens, hidden], for one of :attr:`batches`."""
        return hidden_of(self.module(*batch.args, **batch.kwargs))

    def forward(self) -> Iterator[Tensor]:
        """The output hidden states of every batch, computed with the quantizers as they are now."""
        for batch in self.batches:
            yield self(batch)

    def inputs_of(self, names: Iterable[str], see: Callable[[str, Tensor], None], rounded: bool = False) -> None:
        """Run the block on every batch and show the inputs of some hosts.

        Args:
            names: full names of the hosts.
            see: called as ``see(name, x)`` with ``x`` float [..., in], batch by batch; what it keeps is its own affair.
            rounded: show what is multiplied with the weight: ``x`` behind the host's activation quantizer.
        """
        with ExitStack() as hooks:
            for name in names:
                handle = self.hosts[name].register_forward_pre_hook(partial(_show, name, see, rounded))
                hooks.callback(handle.remove)
            for _ in self.forward():
                pass


def hidden_of(output: Any) -> Tensor:
    """The hidden states among what a block returns: it alone, or the first of a tuple."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def set_weights(modules: Iterable[Host], on: bool) -> None:
    """Turn the weight quantizers of ``modules`` on or off."""
    for host in modules:
        host.weight_fake_quantizer.enabled.fill_(float(on))


def is_uncalibrated(quantizer: FakeQuantizer) -> bool:
    """Whether it is of a static activation, or of static keys or values, and has no range yet."""
    return isinstance(quantizer, LSQFakeQuantizer) and quantizer.activation and not quantizer.has_range


def _show(
    name: str, see: Callable[[str, Tensor], None], rounded: bool, host: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    quantizer = getattr(host, "activation_fake_quantizer", None)
    see(name, quantizer(inputs[0]) if rounded and quantizer is not None else inputs[0])


def _shared_inputs(module: nn.Module, named: dict[str, Host], batch: BlockInput) -> list[list[str]]:
    """Names of the hosts of which one run of the block gives the same tensor to each."""
    seen: list[tuple[Tensor, list[str]]] = []  # holds the tensors, so that no other one can take an address meanwhile

    def note(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for tensor, names in seen:
            if tensor is inputs[0]:
                names.append(name)
                return
        seen.append((inputs[0], [name]))

    with ExitStack() as hooks:
        for name, host in named.items():
            hooks.callback(host.register_forward_pre_hook(partial(note, name)).remove)
        module(*batch.args, **batch.kwargs)
    return [names for _, names in seen]
