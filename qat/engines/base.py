"""A real engine that loads an export, asked for logits, losses and text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.data.tokens import IGNORED_LABEL
from qat.engines.serving import ServerLaunch, no_server
from qat.errors import InputError, RunError
from qat.evaluate.score import Blocks
from qat.models.loaded import Dtype, Task
from qat.models.tokenizer import load_tokenizer


class NotAvailable(InputError):
    """This machine lacks the engine, or the engine a kernel or a dialect for this export: no fault of the export's."""


class NoLogits(InputError):
    """The engine gives no logits of a model like this one; it does give token losses."""


class Engine(ABC):
    """Loads what an exporter wrote, as a user of the engine would.

    An engine is one subclass in one file and one YAML in ``configs/engine``. A subclass sets :attr:`formats`, in
    :meth:`load` sets :attr:`directory`, :attr:`task` and :attr:`dtype`, and with a :meth:`server` sets :attr:`serves`.

    Example:
        >>> engine = TransformersEngine()
        >>> engine.load(Path("exports/compressed_tensors"))
        >>> engine.generate("def main(", max_new_tokens=20)
    """

    formats: frozenset[str]
    """Export formats that it loads, named as their configs."""

    normalised: bool = False
    """Whether its logits are log-probabilities, since it gives no others."""

    serves: bool = False
    """Whether it has a server of its own, which :meth:`server` tells how to start."""

    directory: Path
    """The export. Known after :meth:`load`."""

    task: Task
    """Known after :meth:`load`."""

    dtype: Dtype
    """What it computes in, known after :meth:`load`: the coarsest, where it rounds more than the export says. In
    float32 its logits are held to those of the fake-quantized model."""

    def missing(self) -> str | None:
        """Why the engine cannot run on this machine, with the fix; None if it can. Fast, and loads nothing."""
        return None

    @property
    @abstractmethod
    def description(self) -> str:
        """Engine, version and how it loaded the export: what ``metrics.json`` names. Known after :meth:`load`."""

    @abstractmethod
    def load(self, directory: Path, device: torch.device | str = "cpu") -> None:
        """Load the export in ``directory``, in place of one that is loaded.

        Args:
            directory: what an exporter wrote.
            device: where to compute, unless the engine's own options name a place or it knows only one.

        Raises:
            NotAvailable: this machine lacks what it needs for this export, or the engine knows no such export.
            InputError: the engine cannot load it, with the reason.
        """

    @abstractmethod
    def logits(self, tokens: Tensor) -> Tensor:
        """Logits float32[batch, length, vocabulary] (an encoder's hidden states) of int64[batch, length].

        Raises:
            NoLogits: the engine gives none of this model.
            InputError: the engine takes no such tokens.
        """

    @abstractmethod
    def continue_greedily(self, prompt: list[int], new_tokens: int) -> list[int]:
        """The most likely next tokens one by one, without the prompt; a stop token is the last one.

        Args:
            prompt: token ids, at least one.
            new_tokens: how many at most.

        Raises:
            InputError: the export is no causal language model.
        """

    def weight(self, module: str) -> Tensor | None:
        """The weight of a quantized module as the engine computes with it: its own unpacking, in its own dtype.

        Args:
            module: name of the module in the model's own class.

        Returns:
            float [out, in]; None where the engine does not tell.

        Raises:
            InputError: nothing is loaded.
        """
        return None

    def token_losses(self, tokens: Tensor) -> Tensor:
        """Nats float32[batch, length - 1] that each token but the first costs, of int64[batch, length].

        Raises:
            InputError: the export is no causal language model.
            RunError: the engine answers with numbers of another shape.
        """
        self.need_causal_lm("predict the next token")
        logits = self.logits(tokens)
        if logits.shape[:-1] != tokens.shape:
            raise RunError(
                f"{self.description} gives logits of shape {list(logits.shape)} for tokens of {list(tokens.shape)}"
            )
        rows = [
            F.cross_entropy(row[:-1], wanted[1:], reduction="none")
            for row, wanted in zip(logits, tokens.to(logits.device), strict=True)
        ]
        return torch.stack(rows)

    def loss(self, blocks: Blocks, batch_size: int = 8) -> float:
        """Mean loss in nats a token by the protocol of :mod:`qat.evaluate.perplexity`.

        Raises:
            InputError: the export is no causal language model, or there is nothing to score.
        """
        total, count = 0.0, 0
        for first in range(0, len(blocks), batch_size):
            rows = [blocks[index] for index in range(first, min(first + batch_size, len(blocks)))]
            losses = self.token_losses(torch.stack([row["input_ids"] for row in rows]))
            kept = torch.stack([row["labels"] for row in rows])[:, 1:].to(losses.device) != IGNORED_LABEL
            total += losses[kept].sum(dtype=torch.float64).item()
            count += int(kept.sum())
        if count == 0:
            raise InputError("no token to score: the blocks are empty or every label is -100")
        return total / count

    def generate(self, prompt: str, max_new_tokens: int = 40) -> str:
        """Greedy continuation of ``prompt``, without the prompt, by the tokenizer that the export carries.

        Raises:
            InputError: the export is no causal language model or has no tokenizer, or the prompt has no token.
        """
        self.need_causal_lm("generate")
        tokenizer: Any = load_tokenizer(self.directory)
        ids = tokenizer(prompt)["input_ids"]
        if not ids:
            raise InputError(f"the prompt {prompt!r} has no token; give at least one character")
        text: str = tokenizer.decode(self.continue_greedily(ids, max_new_tokens), skip_special_tokens=True)
        return text

    def server(self, directory: Path, port: int, chat_template: str | None = None) -> ServerLaunch:
        """How the engine's own server is started for the export in ``directory``; starts nothing, loads nothing.

        Args:
            directory: what an exporter wrote, of a causal language model.
            port: of the loopback address.
            chat_template: for an export without one, see :func:`qat.engines.chat_template.template_of`.

        Raises:
            InputError: the engine has no server, or cannot serve this export.
        """
        raise no_server(type(self).__name__)

    def need_causal_lm(self, verb: str) -> None:
        """Return if the loaded export is a causal language model.

        Raises:
            InputError: it is another model, or nothing is loaded.
        """
        if not hasattr(self, "task"):
            raise not_loaded()
        if self.task != "causal_lm":
            raise InputError(f"the export is a {self.task}: only causal language models {verb}")


def not_loaded() -> InputError:
    """What an engine raises that is asked before :meth:`Engine.load`."""
    return InputError("the engine has no model: call load(directory) first")
