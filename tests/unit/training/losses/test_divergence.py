"""Divergences against values worked out by hand, against each other, and with the chunks made tiny."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from qat.training.losses import divergence
from qat.training.losses.divergence import forward_kl, in_chunks, top_k_kl, top_k_log_probs

N, VOCABULARY = 7, 11


def logits(seed: int) -> Tensor:
    return 3 * torch.randn(N, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def full(student: Tensor, teacher: Tensor) -> Tensor:
    """The textbook sum."""
    p, q = teacher.double().softmax(-1), student.double().softmax(-1)
    return (p * (p / q).log()).sum(-1)


def test_forward_kl_is_the_sum() -> None:
    torch.testing.assert_close(forward_kl(logits(0), logits(1)), full(logits(0), logits(1)).float())


@pytest.mark.parametrize("k", [1, 3, VOCABULARY])
@pytest.mark.parametrize("kind", ["full", "top_k"])
def test_chunks_change_neither_value_nor_gradient(monkeypatch: pytest.MonkeyPatch, kind: str, k: int) -> None:
    ids, log_probs = top_k_log_probs(logits(1), k)
    found = []
    for size in (2**24, 2 * VOCABULARY):  # all rows at once; two at a time
        monkeypatch.setattr(divergence, "_CHUNK", size)
        student = logits(0).requires_grad_()
        kl = forward_kl(student, logits(1), 2.0) if kind == "full" else top_k_kl(student, ids, log_probs)
        (kl * torch.arange(1.0, N + 1)).sum().backward()
        found.append((kl.detach(), student.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_a_chunk_holds_no_more_than_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "_CHUNK", 3 * VOCABULARY)
    seen: list[int] = []

    def rows(tensor: Tensor) -> Tensor:
        seen.append(len(tensor))
        return tensor.sum(-1)

    assert torch.equal(in_chunks(rows, VOCABULARY, logits(0)), logits(0).sum(-1))
    assert seen == [3, 3, 1]


def test_top_k_by_hand() -> None:
    probabilities = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    ids, log_probs = top_k_log_probs(probabilities.log() + 7, 2)
    assert ids.tolist() == [[1, 3]]
    assert log_probs.exp().flatten().tolist() == pytest.approx([0.5, 0.25, 0.25])
    uniform = torch.zeros(1, 4)
    expected = 0.5 * math.log(0.5 / 0.25) + 0.25 * math.log(0.25 / 0.25) + 0.25 * math.log(0.25 / 0.5)
    assert top_k_kl(uniform, ids, log_probs).item() == pytest.approx(expected, abs=1e-6)


def test_top_k_is_a_lower_bound_that_rises_to_the_full_divergence() -> None:
    expected = full(logits(0), logits(1)).float()
    found = [top_k_kl(logits(0), *top_k_log_probs(logits(1), k)) for k in range(1, VOCABULARY + 1)]
    for fewer, more in pairwise(found):
        assert (fewer <= more + 1e-6).all()
    assert (found[2] < expected - 1e-4).any()
    torch.testing.assert_close(found[-2], expected)  # the one other token is an outcome of its own
    torch.testing.assert_close(found[-1], expected)


def test_the_gradient_of_all_tokens_is_that_of_the_full_divergence() -> None:
    gradients = []
    for kind in ("full", "top_k"):
        student = logits(0).requires_grad_()
        ids, log_probs = top_k_log_probs(logits(1), VOCABULARY)
        kl = forward_kl(student, logits(1)) if kind == "full" else top_k_kl(student, ids, log_probs)
        kl.sum().backward()
        gradients.append(student.grad)
    torch.testing.assert_close(*gradients)


def test_the_gradient_of_some_tokens_by_hand() -> None:
    """``q - p`` for a kept token; the others share theirs by their probability: ``q_j (1 - p_rest / q_rest)``."""
    student = logits(0).requires_grad_()
    ids, log_probs = top_k_log_probs(logits(1), 3)
    top_k_kl(student, ids, log_probs).sum().backward()
    q, p = student.detach().softmax(-1), logits(1).softmax(-1)
    kept = torch.zeros(N, VOCABULARY, dtype=torch.bool).scatter(-1, ids, True)
    p_rest, q_rest = (one.masked_fill(kept, 0.0).sum(-1, keepdim=True) for one in (p, q))
    torch.testing.assert_close(student.grad, torch.where(kept, q - p, q * (1 - p_rest / q_rest)), atol=1e-6, rtol=1e-4)


def test_a_stored_distribution_need_not_add_up_to_one() -> None:
    ids, log_probs = top_k_log_probs(logits(1), 3)
    found = top_k_kl(logits(0), ids, log_probs + 0.25)
    torch.testing.assert_close(found, top_k_kl(logits(0), ids, log_probs))
    assert (top_k_kl(logits(1), ids, log_probs.half()).abs() < 1e-5).all(), "of the same distribution it is 0"


def test_half_precision_logits_are_worked_out_in_float32() -> None:
    student, teacher = logits(0).bfloat16(), logits(1).bfloat16()
    expected = functional.kl_div(
        student.float().log_softmax(-1), teacher.float().log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    assert torch.equal(forward_kl(student, teacher), expected)
