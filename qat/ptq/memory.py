"""Where the parts of a model are while nobody works on them, and how they come to the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qat.fake_quant import FakeQuantizer
from qat.models.skeleton import Skeleton

Parts = Iterable[tuple[str, nn.Module]]
"""Modules with their full names; only what a module owns itself is meant, not its children."""


class Memory(ABC):
    """Brings parts of a model to the device and takes them back."""

    @contextmanager
    def at_work(self, parts: Parts, device: torch.device) -> Iterator[None]:
        """``parts`` on ``device``, as long as it lasts."""
        chosen = list(parts)
        for name, module in chosen:
            self.bring(name, module, device)
        try:
            yield
        finally:
            for _, module in chosen:
                self.release(module)

    @abstractmethod
    def bring(self, name: str, module: nn.Module, device: torch.device) -> None:
        """Put the module's own parameters and buffers on ``device``."""

    @abstractmethod
    def release(self, module: nn.Module) -> None:
        """Take them from the device again."""


class InMemory(Memory):
    """The whole model is in memory.

    Args:
        home: where it is while it is not worked on.
    """

    def __init__(self, home: torch.device) -> None:
        self._home = home

    def bring(self, name: str, module: nn.Module, device: torch.device) -> None:
        """See :meth:`Memory.bring`."""
        _move(module, device)

    def release(self, module: nn.Module) -> None:
        """See :meth:`Memory.release`."""
        _move(module, self._home)


class OnDisk(Memory):
    """The model is a skeleton; a part has its numbers, read from the folder, only while it is worked on.

    Args:
        skeleton: where they come from. Its model may be prepared; parameters that the folder does not have, which are
            ranges, come as zeros.
    """

    def __init__(self, skeleton: Skeleton) -> None:
        self._skeleton = skeleton

    @torch.no_grad()
    def bring(self, name: str, module: nn.Module, device: torch.device) -> None:
        """See :meth:`Memory.bring`."""
        for key, parameter in module.named_parameters(recurse=False):
            read = self._read(_join(name, key), parameter, device)
            module.register_parameter(key, nn.Parameter(read, parameter.requires_grad))
        for key, buffer in module.named_buffers(recurse=False):
            module._buffers[key] = self._read(_join(name, key), buffer, device)
        if isinstance(module, FakeQuantizer):
            module.set_precision(module.args.num_bits, enabled=True, mix=1.0, observe=False)
        elif module._non_persistent_buffers_set:
            self._skeleton.fill_buffers(module)

    def release(self, module: nn.Module) -> None:
        """See :meth:`Memory.release`."""
        for key, parameter in module.named_parameters(recurse=False):
            module.register_parameter(key, nn.Parameter(parameter.to("meta"), parameter.requires_grad))
        for key, buffer in module.named_buffers(recurse=False):
            module._buffers[key] = buffer.to("meta")

    def _read(self, name: str, like: Tensor, device: torch.device) -> Tensor:
        if name not in self._skeleton.stored:
            return torch.zeros(like.shape, dtype=like.dtype, device=device)
        return self._skeleton.read(name).to(device, like.dtype, copy=True).contiguous()


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _move(module: nn.Module, device: torch.device) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(device)  # the same parameter, so ties hold
    for key, buffer in module.named_buffers(recurse=False):
        module._buffers[key] = buffer.to(device)
