"""Cross-entropy against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from qat.errors import InputError
from qat.training.losses import CrossEntropy
from qat.training.outputs import Output

# One block of three positions over two tokens; softmax([log 3, 0]) = [3/4, 1/4].
LOGITS = torch.tensor([[[math.log(3.0), 0.0], [0.0, 0.0], [100.0, -100.0]]])


def test_causal_position_predicts_the_next_token() -> None:
    batch = {"labels": torch.tensor([[1, 0, 1]])}
    parts = CrossEntropy()("causal_lm", batch, Output(LOGITS), None)
    # Position 0 predicts label 0 with 3/4, position 1 predicts label 1 with 1/2, the last predicts nothing.
    assert parts["loss"].item() == pytest.approx((-math.log(0.75) - math.log(0.5)) / 2)


def test_masked_position_predicts_itself_and_ignored_ones_do_not_count() -> None:
    batch = {"labels": torch.tensor([[1, -100, -100]])}
    parts = CrossEntropy()("masked_lm", batch, Output(LOGITS), None)
    assert parts["loss"].item() == pytest.approx(-math.log(0.25))


def test_a_batch_without_trained_tokens_is_zero_and_has_a_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = CrossEntropy()("causal_lm", {"labels": torch.full((1, 3), -100)}, Output(logits), None)["loss"]
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_half_precision_logits_are_summed_in_float32() -> None:
    loss = CrossEntropy()("causal_lm", {"labels": torch.tensor([[1, 0, 1]])}, Output(LOGITS.bfloat16()), None)["loss"]
    assert loss.dtype == torch.float32


def test_an_encoder_is_refused_with_the_loss_to_use() -> None:
    with pytest.raises(InputError, match="loss=distill"):
        CrossEntropy().check("encoder")
