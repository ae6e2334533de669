"""A real engine that loads an export, asked for logits, loss and text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor

from qat.evaluate.score import Blocks, score
from qat.models.loaded import Dtype, Task


class Engine(ABC):
    """Loads what an exporter wrote, as a user of the engine would.

    An engine is one subclass in one file and one YAML in ``configs/engine``.

    Example:
        >>> engine = TransformersEngine()
        >>> engine.load(Path("exports/compressed_tensors"))
        >>> engine.generate("def main(", max_new_tokens=20)
    """

    task: Task
    """Known after :meth:`load`."""

    dtype: Dtype
    """What it computes in; in float32 its logits are held to those of the fake-quantized model."""

    @property
    @abstractmethod
    def description(self) -> str:
        """Engine, version and how it loaded the export: what ``metrics.json`` names."""

    @abstractmethod
    def load(self, directory: Path, device: torch.device | str = "cpu") -> None:
        """Load the export in ``directory``.

        Args:
            directory: what an exporter wrote.
            device: where to compute, unless the engine's own options name a place.

        Raises:
            InputError: the engine cannot load it, with the reason.
        """

    @abstractmethod
    def logits(self, tokens: Tensor) -> Tensor:
        """Logits float32[batch, length, vocabulary] (an encoder's hidden states) of int64[batch, length]."""

    @abstractmethod
    def generate(self, prompt: str, max_new_tokens: int = 40) -> str:
        """Greedy continuation of ``prompt``, without the prompt."""

    def loss(self, blocks: Blocks, batch_size: int = 8) -> float:
        """Mean loss in nats a token by the protocol of :mod:`qat.evaluate.perplexity`.

        Raises:
            InputError: the loaded model is no causal language model.
        """
        result = score(self.logits, blocks, batch_size, self.task).loss
        assert result is not None
        return result
