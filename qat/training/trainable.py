"""Which parameters a step trains, and what becomes of their gradients and moments."""

from __future__ import annotations

import torch
from torch import nn

from qat.hosts import quantizers
from qat.schedule.state import PrecisionState
from qat.training import optim
from qat.training.dampening import dampen


class Trainable:
    """Carries out what a precision state says of training. It follows from the step alone: nothing is to be saved.

    Args:
        model: what is trained.
        optimizer: over all of it, see :func:`qat.training.optim.build_optimizer`.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model = model
        self.optimizer = optimizer
        self.weights = list(optim.parameters(optimizer, optim.WEIGHTS))
        self._state: PrecisionState | None = None
        self._idle: list[nn.Parameter] = []

    def begin(self, state: PrecisionState, fresh: bool) -> None:
        """Prepare a step at ``state``, whose precision the fake quantizers have.

        Args:
            state: of the step.
            fresh: another block is trained than in the step before (or all, or one of them): forget every moment,
                so that those of one block are held at a time. It follows from the step, so that a resume between
                two blocks drops what the uninterrupted run dropped.
        """
        if fresh:
            self.optimizer.state.clear()
        if state != self._state:
            self._state = state
            self._idle = idle_ranges(self.model)
            for weight in self.weights:
                weight.requires_grad_(not state.trains_ranges_only)

    def before_update(self) -> None:
        """Keep what is frozen, and ranges that are not in use, out of the update and the clipped norm."""
        if self._state is None:
            return
        if self._state.freeze_weights:
            optim.freeze(self.weights)
        if self._state.freeze_ranges:
            optim.freeze(optim.parameters(self.optimizer, optim.RANGES))
        optim.freeze(self._idle)
        if self._state.dampening:
            dampen(self.model, self._state.dampening)

    def release(self) -> None:
        """Leave the weights as they came."""
        for weight in self.weights:
            weight.requires_grad_(True)


def idle_ranges(model: nn.Module) -> list[nn.Parameter]:
    """The learned ranges of fake quantizers that are off now: their gradient is 0 and means nothing."""
    learned = [quantizer for quantizer in quantizers(model).values() if quantizer.ranges()]
    if not learned:
        return []
    shares = torch.stack([quantizer.enabled * quantizer.mix for quantizer in learned]).tolist()  # one transfer
    return [one for quantizer, share in zip(learned, shares, strict=True) if share == 0 for one in quantizer.ranges()]
