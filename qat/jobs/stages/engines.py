"""What an engine makes of an export, beside what the trained model says itself: logits, loss, text, speed, memory."""

from __future__ import annotations

import math
import time
from functools import cached_property
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor, nn

from qat.checkpoint import QuantizedCheckpoint
from qat.engines.base import Engine, NoLogits, NotAvailable
from qat.engines.isolated import Isolated
from qat.errors import QatError, RunError
from qat.evaluate.forward import evaluating, outputs
from qat.evaluate.parity import differing
from qat.evaluate.score import perplexity
from qat.jobs.stages.evaluation import Evaluation
from qat.models.build import torch_dtype
from qat.report.metrics import EngineResult
from qat.rest import stop_tokens
from qat.restore import restore

LOGIT_LIMIT = 1e-4
"""Largest difference between the logits of an export and the fake-quantized model, for weights only in float32."""

LOSS_LIMIT = 0.05
"""Largest difference in nats a token between their losses, where an engine rounds by itself or activations are."""

_BLOCKS = 4
_LOGITS = 1 << 24  # numbers that are compared at most (64 MiB): a 128k vocabulary takes short blocks
_PROMPT, _NEW = 32, 20  # tokens of a greedy continuation


class Expected:
    """The trained model's own answers, computed when they are first asked for, for every engine and export of a run.

    Args:
        checkpoint: the trained model.
        evaluation: the run's text and device.
    """

    def __init__(self, checkpoint: QuantizedCheckpoint, evaluation: Evaluation) -> None:
        self.weight_only = not checkpoint.scheme.rounds_activations
        self.evaluation = evaluation
        self.checkpoint = checkpoint

    @cached_property
    def tokens(self) -> Tensor:
        """Where logits are compared: int64[blocks, length]."""
        blocks = self.evaluation.blocks
        rows = torch.stack([blocks[index]["input_ids"] for index in range(min(_BLOCKS, len(blocks)))])
        vocabulary = int(self.checkpoint.config.get("vocab_size", 1))
        return rows[:, : max(2, _LOGITS // (len(rows) * vocabulary))].contiguous()

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Beginnings of the same blocks; at most half of each, so that a continuation fits the context."""
        length = min(_PROMPT, self.tokens.shape[1] // 2)
        return [row[:length].tolist() for row in self.tokens]

    @property
    def new_tokens(self) -> int:
        """Length of a continuation."""
        return min(_NEW, self.tokens.shape[1] - len(self.prompts[0]))

    @property
    def logits(self) -> Tensor:
        """Of :attr:`tokens`, float32[blocks, length, vocabulary] on the CPU; hidden states of an encoder."""
        return self._answers[0]

    @property
    def continuations(self) -> list[list[int]]:
        """Of :attr:`prompts`, up to and with the model's stop token."""
        return self._answers[1]

    @property
    def token_losses(self) -> Tensor:
        """Nats that each of :attr:`tokens` but the first of a block costs, float32[blocks, length - 1]."""
        log_probabilities = self.logits[:, :-1].log_softmax(-1)
        return -log_probabilities.gather(-1, self.tokens[:, 1:, None]).squeeze(-1)

    @cached_property
    def loss(self) -> float | None:
        """Nats a token on the blocks that engines are scored on; None of an encoder."""
        return self.evaluation.score(restore(self.checkpoint), None).loss

    @cached_property
    def _answers(self) -> tuple[Tensor, list[list[int]]]:
        model = restore(self.checkpoint).to(self.evaluation.inputs.device)
        with evaluating(model):
            logits = outputs(model, self.tokens).float().cpu()
            generates = self.checkpoint.task == "causal_lm"
            texts = [self._continue(model, prompt) for prompt in self.prompts] if generates else []
        return logits, texts

    def _continue(self, model: nn.Module, prompt: list[int]) -> list[int]:
        stop = stop_tokens(self.checkpoint.config, self.checkpoint.generation_config)
        ids = list(prompt)
        for _ in range(self.new_tokens):
            ids.append(int(outputs(model, torch.tensor([ids]))[0, -1].argmax()))
            if ids[-1] in stop:
                break
        return ids[len(prompt) :]


def measure(engine: Isolated, directory: Path, expected: Expected) -> EngineResult:
    """Load the export in ``directory`` and compare what the engine computes; what goes wrong is in the result."""
    if (absent := engine.missing()) is not None:
        return EngineResult(status="not_available", reason=absent)
    try:
        with engine:
            engine.load(directory, expected.evaluation.inputs.device)
            result = _measured(engine, expected)
            result.peak_memory_bytes = engine.peak_memory_bytes
            if (wrong := _another_model(engine, expected, result)) is not None:
                result.status, result.reason = "failed", wrong
            return result
    except NotAvailable as error:
        return EngineResult(status="not_available", reason=str(error))
    except QatError as error:
        return EngineResult(status="failed", reason=str(error))


def _measured(engine: Engine, expected: Expected) -> EngineResult:
    loss = expected.evaluation.engine_loss(engine)
    if loss is not None and not math.isfinite(loss):
        raise RunError(f"{engine.description} has a loss of {loss}: its outputs are not finite")
    result = EngineResult(status="ok", description=engine.description, loss=loss)
    result.perplexity = None if loss is None else perplexity(loss)
    result.weights_different = _weights_different(engine, expected.checkpoint)
    try:
        result.max_logit_difference = _logit_difference(engine, expected)
    except NoLogits as error:
        difference = _token_loss_difference(engine, expected)
        result.reason = f"no logits: {error}; token losses differ by {difference:.2g} at most"
    if expected.continuations:
        result.greedy_tokens_equal = _greedy(engine, expected)
        result.prompt_tokens_per_second, result.generated_tokens_per_second = _speed(engine, expected)
    return result


def _weights_different(engine: Engine, checkpoint: QuantizedCheckpoint) -> int | None:
    """By the engine's own account, in float32, which holds every engine's dtype exactly."""
    total = 0
    for module, entry in checkpoint.weights.items():
        got = engine.weight(module)
        if got is None:
            return None
        total += differing(entry.grid.value().to(torch_dtype(engine.dtype)).float(), got.float())
    return total


def _logit_difference(engine: Engine, expected: Expected) -> float:
    got, wanted = engine.logits(expected.tokens).float().cpu(), expected.logits
    if got.shape != wanted.shape:
        raise RunError(f"{engine.description} gives logits of shape {list(got.shape)}, not {list(wanted.shape)}")
    if engine.normalised:
        wanted = wanted.log_softmax(-1)
    return _finite((got - wanted).abs().max().item(), engine, "logits")


def _token_loss_difference(engine: Engine, expected: Expected) -> float:
    """In place of the logits', held to the same limit: a token loss is one of the log-probabilities."""
    got = engine.token_losses(expected.tokens).float().cpu()
    difference = _finite((got - expected.token_losses).abs().max().item(), engine, "token losses")
    if _held_to_logits(engine, expected) and difference > LOGIT_LIMIT:
        raise RunError(_differs(engine, "token losses", difference))
    return difference


def _finite(difference: float, engine: Engine, what: str) -> float:
    if not math.isfinite(difference):
        raise RunError(f"{engine.description} gives {what} that are not finite")
    return difference


def _greedy(engine: Engine, expected: Expected) -> tuple[int, int]:
    """Tokens before the first that differs, and all of them: after it the two continue different texts."""
    equal = 0
    for prompt, wanted in zip(expected.prompts, expected.continuations, strict=True):
        got = engine.continue_greedily(prompt, expected.new_tokens)
        pairs = zip(wanted, got, strict=False)  # an engine may go on behind the stop token
        equal += sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return equal, sum(map(len, expected.continuations))


def _speed(engine: Engine, expected: Expected) -> tuple[float | None, float | None]:
    """Tokens a second of reading one block and of generating one token after the other, as the caller sees it."""
    block = expected.evaluation.blocks[0]["input_ids"][:-1].tolist()  # with room for one more in its context
    reading, _ = _timed(engine, block, 1)
    first, _ = _timed(engine, expected.prompts[0], 1)
    whole, count = _timed(engine, expected.prompts[0], expected.new_tokens)
    generated = (count - 1) / (whole - first) if count > 1 and whole > first else None
    return len(block) / reading, generated


def _timed(engine: Engine, prompt: list[int], new_tokens: int) -> tuple[float, int]:
    """Seconds, and tokens that came."""
    start = time.perf_counter()
    count = len(engine.continue_greedily(prompt, new_tokens))
    return time.perf_counter() - start, count


def _another_model(engine: Engine, expected: Expected, result: EngineResult) -> str | None:
    """Why the engine does not compute the trained model; None if it does.

    In float32 the weights are the checkpoint's, bit by bit; below, an engine may round the scale first. Logits are held
    where nothing but the order of sums can part them. An activation next to a rounding border may fall to either code,
    and an engine below float32 rounds by itself: there the loss of a causal model is held.
    """
    if engine.dtype == "float32" and result.weights_different:
        return (
            f"{engine.description} computes with {result.weights_different:,} weights that differ from the quantized "
            "checkpoint's; none may"
        )
    difference = result.max_logit_difference
    if _held_to_logits(engine, expected):
        return None if difference is None or difference <= LOGIT_LIMIT else _differs(engine, "logits", difference)
    if engine.task != "causal_lm" or result.loss is None or expected.loss is None:
        return None
    if abs(result.loss - expected.loss) <= LOSS_LIMIT:
        return None
    return (
        f"{engine.description} has a loss of {result.loss:.4f} nats a token, and the quantized checkpoint "
        f"{expected.loss:.4f} on the same tokens: they may differ by {LOSS_LIMIT:g}"
    )


def _held_to_logits(engine: Engine, expected: Expected) -> bool:
    return engine.dtype == "float32" and expected.weight_only


def _differs(engine: Engine, what: str, difference: float) -> str:
    return (
        f"{engine.description} has other {what} than the quantized checkpoint: they differ by {difference:.2g}, "
        f"and at most {LOGIT_LIMIT:g} is allowed with weights only"
    )
