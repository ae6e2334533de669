"""What is measured of an engine: a small table of logits takes the place of a model."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import VOCABULARY, random_llama
from torch import Tensor

from qat.checkpoint import QuantizedCheckpoint
from qat.engines.base import Engine, NoLogits, NotAvailable
from qat.errors import InputError, RunError
from qat.evaluate.score import score
from qat.jobs.stages import engines
from qat.jobs.stages.engines import Expected, measure
from qat.prepare import prepare
from qat.restore import restore
from qat.scheme import preset

TOKENS = torch.randint(VOCABULARY, (6, 16), generator=torch.Generator().manual_seed(0))


def frozen(scheme: str = "w4a16_g32", eos: int | None = None) -> QuantizedCheckpoint:
    model = random_llama()
    model.generation_config.eos_token_id = eos
    prepare(model, preset(scheme))
    return QuantizedCheckpoint.freeze(model, preset(scheme))


def expected_of(checkpoint: QuantizedCheckpoint) -> Expected:
    inputs = SimpleNamespace(device=torch.device("cpu"), loaded=SimpleNamespace(task="causal_lm"))
    blocks = [{"input_ids": row, "labels": row} for row in TOKENS]
    evaluation: Any = SimpleNamespace(
        inputs=inputs,
        blocks=blocks,
        engine_loss=lambda engine: engine.loss(blocks),
        score=lambda model, reference: score(model, blocks, 8, reference=reference),
    )
    return Expected(checkpoint, evaluation)


class Fake(Engine):
    """The trained model itself, with what a test changes about it."""

    formats = frozenset({"any"})
    peak_memory_bytes = 77
    description = "fake 1.0"

    def __init__(self, checkpoint: QuantizedCheckpoint, **changes: Any) -> None:
        self.model = restore(checkpoint)
        self.absent: str | None = None
        self.fails: Exception | None = None
        self.added = 0.0
        self.dtype, self.task = "float32", "causal_lm"
        self.asked: list[tuple[int, int]] = []
        self.closed = False
        for name, value in changes.items():
            setattr(self, name, value)

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def missing(self) -> str | None:
        return self.absent

    def load(self, directory: Path, device: torch.device | str = "cpu") -> None:
        if self.fails is not None:
            raise self.fails

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model(tokens).logits
        logits[..., 0] += self.added
        return logits.log_softmax(-1) if self.normalised else logits

    def weight(self, module: str) -> Tensor | None:
        found: Tensor = self.model.get_submodule(module).weight
        return found.detach()

    def continue_greedily(self, prompt: list[int], new_tokens: int) -> list[int]:
        self.asked.append((len(prompt), new_tokens))
        ids = list(prompt)
        for _ in range(new_tokens):
            ids.append(int(self.logits(torch.tensor([ids]))[0, -1].argmax()))
        return ids[len(prompt) :]


def measured(checkpoint: QuantizedCheckpoint, **changes: Any) -> Any:
    engine: Any = Fake(checkpoint, **changes)
    result = measure(engine, Path("export"), expected_of(checkpoint))
    assert engine.closed == (engine.absent is None)
    return result


def test_weights_are_counted_by_the_engines_own_account() -> None:
    checkpoint = frozen()
    assert measured(checkpoint).weights_different == 0
    assert measured(checkpoint, weight=lambda _: None).weights_different is None

    def other(module: str, dtype: torch.dtype = torch.float32) -> Tensor:
        weight = checkpoint.weights[module].grid.value().to(dtype)
        if module.endswith("layers.1.mlp.up_proj"):
            weight[0, :3] += 1
        return weight

    wrong = measured(checkpoint, weight=other)
    assert (wrong.status, wrong.weights_different) == ("failed", 3)
    assert wrong.reason == "fake 1.0 computes with 3 weights that differ from the quantized checkpoint's; none may"
    half = measured(checkpoint, dtype="float16", weight=lambda module: other(module, torch.float16))
    assert half.weights_different == 3, "compared in the engine's own dtype"
    assert half.status == "ok", "in 16 bits an engine may round the scale first"
    rounded = measured(checkpoint, weight=lambda module: other(module) * (1 + 2**-23))
    assert rounded.weights_different > 1000, "one bit is a difference"


def test_the_trained_model_itself_differs_in_nothing() -> None:
    checkpoint = frozen()
    result = measured(checkpoint)
    assert (result.status, result.reason, result.description) == ("ok", None, "fake 1.0")
    assert result.max_logit_difference == 0.0
    assert result.greedy_tokens_equal == (4 * 8, 4 * 8)
    assert result.prompt_tokens_per_second > 0
    assert result.peak_memory_bytes == 77
    with torch.no_grad():
        log_probabilities = restore(checkpoint)(TOKENS).logits.log_softmax(-1)
    loss = -log_probabilities[:, :-1].gather(-1, TOKENS[:, 1:, None]).mean().item()
    assert result.loss == pytest.approx(loss, rel=1e-6)
    assert result.perplexity == pytest.approx(math.exp(loss), rel=1e-6)


def test_log_probabilities_are_compared_with_log_probabilities() -> None:
    checkpoint = frozen()
    assert measured(checkpoint, normalised=True).max_logit_difference < 1e-5
    assert measured(checkpoint, normalised=True, added=0.5).max_logit_difference > 0.4


@pytest.mark.parametrize(("scheme", "dtype", "status"), [
    ("w4a16_g32", "float32", "failed"), ("w4a16_g32", "float16", "ok"), ("w8a8", "float32", "ok"),
])  # fmt: skip
def test_only_float32_with_weights_alone_is_held_to_the_limit(scheme: str, dtype: str, status: str) -> None:
    result = measured(frozen(scheme), added=0.01, dtype=dtype)
    assert result.status == status
    assert result.max_logit_difference == pytest.approx(0.01, rel=1e-3)
    assert measured(frozen(scheme), added=5e-5, dtype=dtype).status == "ok"


def test_greedy_tokens_count_up_to_the_first_that_differs() -> None:
    checkpoint = frozen()
    wanted = expected_of(checkpoint).continuations

    def other(prompt: list[int], new_tokens: int) -> list[int]:
        texts = {tuple(row[:8].tolist()): list(text) for row, text in zip(TOKENS, wanted, strict=False)}
        text = texts.get(tuple(prompt), [1] * new_tokens)[:new_tokens]
        if prompt == TOKENS[1, :8].tolist():
            text[3] += 1  # what follows does not count
        if prompt == TOKENS[2, :8].tolist():
            text = text[:5]
        return text

    assert measured(checkpoint, continue_greedily=other).greedy_tokens_equal == (8 + 3 + 5 + 8, 32)


def test_a_continuation_ends_with_the_stop_token() -> None:
    first = expected_of(frozen()).continuations[0]
    checkpoint = frozen(eos=first[2])
    wanted = expected_of(checkpoint).continuations
    assert wanted[0] == first[: first.index(first[2]) + 1]
    equal, of = measured(checkpoint).greedy_tokens_equal  # the engine goes on behind it
    assert equal == of == sum(map(len, wanted)) < 32


def test_speed_is_of_a_block_and_of_single_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = frozen()
    clock = iter([0.0, 3.0, 10.0, 11.0, 20.0, 24.5])  # a block; the first token; all eight
    monkeypatch.setattr(engines.time, "perf_counter", lambda: next(clock))
    engine: Any = Fake(checkpoint)
    result = measure(engine, Path("export"), expected_of(checkpoint))
    assert engine.asked[-3:] == [(15, 1), (8, 1), (8, 8)]
    assert result.prompt_tokens_per_second == pytest.approx(15 / 3)
    assert result.generated_tokens_per_second == pytest.approx(7 / 3.5)


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"absent": "not installed: do this"}, "not_available", "not installed: do this"),
        ({"fails": NotAvailable("no kernel here")}, "not_available", "no kernel here"),
        ({"fails": InputError("cannot load")}, "failed", "cannot load"),
        ({"fails": RunError("it crashed")}, "failed", "it crashed"),
        ({"added": math.nan}, "failed", "fake 1.0 has a loss of nan: its outputs are not finite"),
    ],
)
def test_what_goes_wrong_is_said_and_never_passes(changes: dict[str, Any], status: str, reason: str) -> None:
    result = measured(frozen(), **changes)
    assert (result.status, result.reason) == (status, reason)
    assert result.max_logit_difference is None
    assert result.loss is None


def losses_only(checkpoint: QuantizedCheckpoint, added: float = 0.0, of: Tensor | None = None) -> dict[str, Any]:
    """An engine without logits; ``added`` to its token losses of a batch of the size of ``of``."""
    fake = Fake(checkpoint)

    def logits(tokens: Tensor) -> Tensor:
        raise NoLogits("128256 tokens are too many")

    def token_losses(tokens: Tensor) -> Tensor:
        losses = fake.token_losses(tokens)
        return losses + added if of is None or len(of) == len(tokens) else losses

    return {"logits": logits, "token_losses": token_losses, "continue_greedily": fake.continue_greedily}


def test_an_engine_that_gives_no_logits_is_compared_by_its_token_losses() -> None:
    checkpoint = frozen()
    result = measured(checkpoint, **losses_only(checkpoint))
    assert result.status == "ok"
    assert re.fullmatch(r"no logits: 128256 tokens are too many; token losses differ by \S+ at most", result.reason)
    assert float(result.reason.split()[-3]) < 1e-5
    assert result.max_logit_difference is None
    assert result.loss is not None
    assert result.greedy_tokens_equal == (32, 32)
    result = measured(checkpoint, **losses_only(checkpoint, added=0.01))
    assert result.status == "failed"
    assert "other token losses than the quantized checkpoint: they differ by 0.01," in result.reason
    assert measured(checkpoint, dtype="float16", **losses_only(checkpoint, added=0.01)).status == "ok"
    result = measured(checkpoint, dtype="float16", **losses_only(checkpoint, added=math.nan, of=TOKENS[:4]))
    assert (result.status, result.reason) == ("failed", "fake 1.0 gives token losses that are not finite")


def test_an_error_of_the_logits_is_no_refusal_of_them() -> None:
    def logits(tokens: Tensor) -> Tensor:
        raise InputError("16 tokens do not fit the context of 8")

    result = measured(frozen(), logits=logits, loss=lambda _: 1.0)
    assert (result.status, result.reason) == ("failed", "16 tokens do not fit the context of 8")


@pytest.mark.parametrize(("scheme", "dtype"), [("w4a16_g32", "float16"), ("w8a8", "float32")])
def test_the_loss_is_held_where_logits_are_not(scheme: str, dtype: str) -> None:
    checkpoint = frozen(scheme)
    own = expected_of(checkpoint).loss
    assert own == pytest.approx(measured(checkpoint).loss, rel=1e-6)
    for moved in (0.04, -0.04):
        assert measured(checkpoint, dtype=dtype, loss=lambda _, moved=moved: own + moved).status == "ok"
    for moved in (0.06, -0.06):
        result = measured(checkpoint, dtype=dtype, loss=lambda _, moved=moved: own + moved)
        assert result.status == "failed"
        assert result.reason == (
            f"fake 1.0 has a loss of {own + moved:.4f} nats a token, and the quantized checkpoint {own:.4f} on the "
            "same tokens: they may differ by 0.05"
        )


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("scheme", "dtype"), [("w4a16_g32", "float16"), ("w8a8", "float32"), ("w4a16_g32", "float32")])
def test_logits_that_are_not_finite_always_fail(scheme: str, dtype: str, value: float) -> None:
    checkpoint = frozen(scheme)
    own = expected_of(checkpoint).loss
    result = measured(checkpoint, dtype=dtype, added=value, loss=lambda _: own)
    assert (result.status, result.reason) == ("failed", "fake 1.0 gives logits that are not finite")


def test_logits_of_another_shape_fail() -> None:
    checkpoint = frozen()
    model = Fake(checkpoint)
    result = measured(checkpoint, logits=lambda tokens: model.logits(tokens)[..., :-1], loss=lambda _: 1.0)
    assert result.status == "failed"
    assert f"gives logits of shape [4, 16, {VOCABULARY - 1}], not [4, 16, {VOCABULARY}]" in str(result.reason)


def test_a_large_vocabulary_is_compared_on_short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_LOGITS", 4 * 10 * VOCABULARY)
    expected = expected_of(frozen())
    assert expected.tokens.shape == (4, 10)
    assert expected.logits.shape == (4, 10, VOCABULARY)
    assert [len(prompt) for prompt in expected.prompts] == [5] * 4
