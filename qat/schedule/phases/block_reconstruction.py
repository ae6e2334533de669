"""Train the model one transformer block after the other, each on the output of the float block."""

from __future__ import annotations

from dataclasses import dataclass

from qat.schedule.phase import Phase
from qat.schedule.state import PrecisionState


@dataclass(frozen=True, kw_only=True)
class BlockReconstruction(Phase):
    """Everything is quantized, and one block at a time is trained: its weights, its other parameters and its ranges.

    What is minimized is the squared error between the block's output and that of the float model's block. The block
    gets what the quantized blocks before it give, the float block what the float ones give, so that a block also makes
    up for the errors of those before it. Each block has an equal part of the phase and rates of its own.

    Method: Block-AP, the first phase of EfficientQAT (arXiv:2407.11062, section 3.2, which follows the reconstruction
    of BRECQ, arXiv:2102.05426); the inputs and targets are those of the authors' implementation.
    """

    def state(self, progress: float) -> PrecisionState:
        return PrecisionState(self.kind, reconstruct=progress)
