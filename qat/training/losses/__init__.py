"""Training losses, one a file."""

from __future__ import annotations

from qat.training.losses.base import Loss
from qat.training.losses.cross_entropy import CrossEntropy
from qat.training.losses.distill import Distill

__all__ = ["CrossEntropy", "Distill", "Loss"]
