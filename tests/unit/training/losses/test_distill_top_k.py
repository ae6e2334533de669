"""Distillation from stored logits against the loss that has the teacher beside it."""

from __future__ import annotations

import math

import pytest
import torch

from qat.errors import InputError
from qat.training.losses import CrossEntropy, Distill, DistillTopK
from qat.training.losses.divergence import top_k_log_probs
from qat.training.outputs import Output

# Teacher [1/2, 1/4, 1/8, 1/8] and an even student at the first of two positions; the second predicts nothing.
TEACHER = torch.tensor([[[8.0, 4.0, 2.0, 2.0], [1.0, 2.0, 3.0, 4.0]]]).log()
STUDENT = torch.zeros(1, 2, 4)


def batch(k: int, labels: list[int] | None = None) -> dict[str, torch.Tensor]:
    ids, log_probs = top_k_log_probs(TEACHER[0], k)
    return {"labels": torch.tensor([labels or [0, 1]]), "teacher_ids": ids[None], "teacher_log_probs": log_probs[None]}


def test_by_hand() -> None:
    expected = 0.5 * math.log(2) + 0.25 * math.log(1) + 0.25 * math.log(0.5)  # two tokens, and the rest
    parts = DistillTopK(k=2)("causal_lm", batch(2), Output(STUDENT), None)
    assert parts["loss"].item() == parts["kl"].item() == pytest.approx(expected)
    assert set(parts) == {"loss", "kl"}


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_with_all_tokens_it_is_distill(mix: float) -> None:
    expected = Distill(mix=mix)("causal_lm", batch(4), Output(STUDENT), Output(TEACHER))
    found = DistillTopK(k=4, mix=mix)("causal_lm", batch(4), Output(STUDENT), None)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_mix_zero_is_the_cross_entropy() -> None:
    expected = CrossEntropy()("causal_lm", batch(2), Output(STUDENT), None)["loss"]
    assert torch.equal(DistillTopK(k=2, mix=0.0)("causal_lm", batch(2), Output(STUDENT), None)["loss"], expected)


def test_positions_without_a_trained_label_do_not_count() -> None:
    parts = DistillTopK(k=2)("causal_lm", batch(2, [0, -100]), Output(STUDENT), None)
    assert parts["loss"].item() == 0


@pytest.mark.parametrize(("task", "why"), [("masked_lm", "hides other tokens"), ("encoder", "no token logits")])
def test_other_tasks_are_refused(task: str, why: str) -> None:
    with pytest.raises(InputError, match=f"{why}.*use loss=distill"):
        DistillTopK().check(task)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"k": 0}, {"mix": -0.5}, {"teacher": "me"}])
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(InputError, match=rf"loss\.{name}={value!r}"):
        DistillTopK(**options)  # type: ignore[arg-type]
