"""Training losses, one a file."""

from __future__ import annotations

from qat.training.losses.base import Loss
from qat.training.losses.cross_entropy import CrossEntropy
from qat.training.losses.distill import Distill
from qat.training.losses.distill_hidden import DistillHidden
from qat.training.losses.distill_top_k import DistillTopK

__all__ = ["CrossEntropy", "Distill", "DistillHidden", "DistillTopK", "Loss"]
