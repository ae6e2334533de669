"""Quantize block by block: each block sees what the blocks before it, already quantized, really give."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qat.errors import InputError
from qat.hosts import Host, hosts, quantizers
from qat.models.blocks import transformer_blocks
from qat.observers import Observer
from qat.ptq.base import PTQ
from qat.ptq.block import Block, BlockInput, OnDevice, hidden_of, is_uncalibrated
from qat.ptq.capture import capture
from qat.ptq.memory import InMemory, Memory
from qat.ptq.store import BlockStore

__all__ = ["Block", "BlockInput", "BlockwisePTQ"]


@dataclass(frozen=True)
class BlockwisePTQ(PTQ):
    """An algorithm that needs one transformer block at a time, with its inputs.

    A subclass is a frozen dataclass too, adds its options and implements :meth:`quantize_block`; everything else
    (finding the blocks, their inputs, devices, resuming, streaming, progress) is done here. In memory are one block and
    the activations between two blocks, twice: on the device one batch of them.

    Args:
        observer: sets the ranges of weights outside the blocks (embedding, head, pooler), and whatever the algorithm
            leaves to it.
    """

    observer: Observer

    @abstractmethod
    def quantize_block(self, block: Block) -> None:
        """Set the ranges of every host's weight quantizer and, where the algorithm changes weights, the parameters of
        ``block.module``, in place (``parameter.copy_(...)``: no gradients are recorded).

        The driver turns the quantizers on afterwards, so the state of ``enabled`` does not matter at the end.
        """

    @torch.no_grad()
    def run(self, model: nn.Module, batches: Iterable[dict[str, Any]], store: BlockStore | None = None) -> None:
        """See :meth:`PTQ.run`. The blocks are worked on where the batches are; the model stays where it is.

        Raises:
            InputError: a model without transformer blocks, or no batches.
        """
        home = next(model.parameters()).device
        enabled = [quantizer.enabled.clone() for quantizer in quantizers(model).values()]
        was_training = model.training
        model.eval()
        try:
            run_blocks(self, model, batches, store, InMemory(home))
            for host in (module for _, module in _outside(model) if isinstance(module, Host)):
                host.weight_fake_quantizer.init_range(self.observer, host.weight)
        finally:
            model.train(was_training)
            for quantizer, value in zip(quantizers(model).values(), enabled, strict=True):
                quantizer.enabled.copy_(value)


@torch.no_grad()
def run_blocks(
    algorithm: BlockwisePTQ,
    model: nn.Module,
    batches: Iterable[dict[str, Any]],
    store: BlockStore | None,
    memory: Memory,
) -> None:
    """Quantize every block of ``model`` and, if there is a ``store``, keep each there as soon as it is done.

    Blocks that the store has are not computed: the result is that of one uninterrupted run, bit for bit.

    Args:
        algorithm: what is done with a block.
        model: prepared, in evaluation mode.
        batches: keyword arguments of the model, on the device to work on.
        store: finished blocks.
        memory: where the model's numbers are. What is no block comes to the device for the first pass.

    Raises:
        InputError: a model without transformer blocks, or no batches.
    """
    blocks = transformer_blocks(model)
    given = list(batches)
    if not given:
        raise InputError(f"{type(algorithm).__name__} needs data; set calibration_batches to 1 or more")
    device = next(value for value in given[0].values() if isinstance(value, Tensor)).device
    driver = _Driver(algorithm, store, memory, device)
    with _progress() as bar:
        task = bar.add_task(type(algorithm).__name__, total=len(blocks), loss="")
        inputs = None if driver.all_kept(blocks) else driver.first_inputs(model, blocks, given)
        hidden: list[Tensor] | None = None
        for name, block in blocks.items():
            own = None if inputs is None else inputs.pop(name)
            if own is not None and hidden is not None:
                own = [item.with_hidden(out) for item, out in zip(own, hidden, strict=True)]
            hidden, loss = driver.finish(name, block, own)
            bar.update(task, advance=1, loss=f"{name}: error {loss:.2e}")


@dataclass(frozen=True)
class _Driver:
    algorithm: BlockwisePTQ
    store: BlockStore | None
    memory: Memory
    device: torch.device

    def all_kept(self, blocks: Iterable[str]) -> bool:
        """Whether there is nothing left to compute."""
        return self.store is not None and all(name in self.store for name in blocks)

    def first_inputs(
        self, model: nn.Module, blocks: dict[str, nn.Module], batches: list[dict[str, Any]]
    ) -> dict[str, list[BlockInput]]:
        """The inputs of every block; right for the first one, hidden states of the others are yet to come."""
        name, first = next(iter(blocks.items()))
        with self._working(name, first), _arriving(self, model):
            return capture(model, blocks, batches)

    def finish(
        self, name: str, module: nn.Module, inputs: list[BlockInput] | None
    ) -> tuple[list[Tensor] | None, float]:
        """Quantize one block, or take it from the store; returns its outputs (None without inputs) and its loss."""
        with self._working(name, module):
            if self.store is not None and name in self.store:
                module.load_state_dict(self.store.load(name))
                loss = self.store.loss(name)
                return None if inputs is None else self._outputs(module, inputs), loss
            assert inputs is not None
            outputs, loss = self._quantize(name, module, inputs)
            if self.store is not None:
                self.store.save(name, module.state_dict(), loss)
            return outputs, loss

    def _quantize(self, name: str, module: nn.Module, inputs: list[BlockInput]) -> tuple[list[Tensor], float]:
        if not hosts(module):
            return self._outputs(module, inputs), 0.0
        _switch(module, weights=False)
        block = Block.observed(name, module, OnDevice(inputs, self.device))
        before = [output.cpu() for output in block.forward()]
        self.algorithm.quantize_block(block)
        after = self._outputs(module, inputs)
        error = sum(float((new - old).double().square().sum()) for new, old in zip(after, before, strict=True))
        energy = sum(float(old.double().square().sum()) for old in before)
        return after, error / energy if energy else 0.0

    def _outputs(self, module: nn.Module, inputs: list[BlockInput]) -> list[Tensor]:
        """What the quantized block hands on."""
        _switch(module, weights=True)
        batches = OnDevice(inputs, self.device)
        return [hidden_of(module(*batch.args, **batch.kwargs)).cpu() for batch in batches]

    @contextmanager
    def _working(self, name: str, module: nn.Module) -> Iterator[None]:
        with self.memory.at_work(module.named_modules(prefix=name), self.device):
            _switch(module, weights=False)
            yield


def _switch(module: nn.Module, weights: bool) -> None:
    """Turn on every quantizer, but those of weights only if told so, and none that has no range yet."""
    own = {id(host.weight_fake_quantizer) for host in hosts(module).values()}
    for quantizer in quantizers(module).values():
        on = weights if id(quantizer) in own else not is_uncalibrated(quantizer)
        quantizer.enabled.fill_(float(on))


@contextmanager
def _arriving(driver: _Driver, model: nn.Module) -> Iterator[None]:
    """Bring what is outside the blocks to the device when it is first used; hosts get their ranges there."""
    with ExitStack() as stack:

        def arrive(name: str, module: nn.Module, handle: RemovableHandle) -> None:
            handle.remove()
            parts = module.named_modules(prefix=name) if isinstance(module, Host) else [(name, module)]
            stack.enter_context(driver.memory.at_work(parts, driver.device))
            if isinstance(module, Host):
                module.weight_fake_quantizer.init_range(driver.algorithm.observer, module.weight)
                _switch(module, weights=True)

        for name, module in _outside(model):
            _on_first_use(module, partial(arrive, name, module), stack)
        yield


def _on_first_use(module: nn.Module, act: Callable[[RemovableHandle], None], stack: ExitStack) -> None:
    handle: RemovableHandle = module.register_forward_pre_hook(lambda *_: act(handle))
    stack.callback(handle.remove)


def _outside(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules outside the blocks that own tensors, and hosts; what is inside a host is not named."""
    skip = tuple(f"{name}." for name in transformer_blocks(model))
    for name, module in model.named_modules():
        if f"{name}.".startswith(skip):
            continue
        if isinstance(module, Host):
            skip += (f"{name}.",)
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if own:
            yield name, module


def _progress() -> Progress:
    """Blocks done and the relative squared error of the last one's output, on a terminal only."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
        console=console,
        disable=not console.is_terminal,
    )
