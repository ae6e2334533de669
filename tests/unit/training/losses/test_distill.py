"""Distillation against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from qat.errors import InputError
from qat.training.losses import CrossEntropy, Distill
from qat.training.outputs import Output

# Teacher [3/4, 1/4] and student [1/2, 1/2] at the first of two positions; the second has no label to predict.
TEACHER = torch.tensor([[[math.log(3.0), 0.0], [0.0, 9.0]]])
STUDENT = torch.tensor([[[0.0, 0.0], [9.0, 0.0]]])
BATCH = {"labels": torch.tensor([[0, 1]])}
KL = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)


def test_forward_kl_of_the_whole_distribution() -> None:
    parts = Distill()("causal_lm", BATCH, Output(STUDENT), Output(TEACHER))
    assert parts["loss"].item() == pytest.approx(KL)
    assert parts["kl"].item() == pytest.approx(KL)
    assert set(parts) == {"loss", "kl"}


def test_temperature_softens_both_and_scales_back() -> None:
    soft = [math.sqrt(3) / (1 + math.sqrt(3)), 1 / (1 + math.sqrt(3))]
    expected = 4 * sum(p * math.log(p / 0.5) for p in soft)
    assert Distill(temperature=2.0)("causal_lm", BATCH, Output(STUDENT), Output(TEACHER))[
        "loss"
    ].item() == pytest.approx(expected)


def test_mix_adds_the_cross_entropy() -> None:
    parts = Distill(mix=0.25)("causal_lm", BATCH, Output(STUDENT), Output(TEACHER))
    assert parts["loss"].item() == pytest.approx(0.25 * KL + 0.75 * math.log(2))
    assert parts["ce"].item() == pytest.approx(math.log(2))


def test_mix_zero_is_the_cross_entropy() -> None:
    expected = CrossEntropy()("causal_lm", BATCH, Output(STUDENT), None)["loss"]
    assert torch.equal(Distill(mix=0.0)("causal_lm", BATCH, Output(STUDENT), Output(TEACHER))["loss"], expected)


def test_positions_without_a_trained_label_do_not_count() -> None:
    student = torch.cat([STUDENT, STUDENT], dim=1)
    teacher = torch.cat([TEACHER, TEACHER], dim=1)
    batch = {"labels": torch.tensor([[0, 1, -100, -100]])}
    assert Distill()("causal_lm", batch, Output(student), Output(teacher))["loss"].item() == pytest.approx(KL)


def test_the_gradient_is_the_difference_of_the_distributions() -> None:
    student = STUDENT.clone().requires_grad_()
    Distill()("causal_lm", BATCH, Output(student), Output(TEACHER))["loss"].backward()
    assert torch.allclose(student.grad[0], torch.tensor([[0.5 - 0.75, 0.5 - 0.25], [0.0, 0.0]]))


def test_an_encoder_is_taught_its_hidden_states() -> None:
    hidden = torch.tensor([[[1.0, 2.0], [5.0, 5.0]]])
    taught = torch.tensor([[[0.0, 4.0], [0.0, 0.0]]])
    parts = Distill()("encoder", {"labels": torch.tensor([[0, -100]])}, Output(hidden), Output(taught))
    assert parts["loss"].item() == pytest.approx((1 + 4) / 2)


def test_an_encoder_has_no_cross_entropy_to_mix_in() -> None:
    with pytest.raises(InputError, match=r"loss\.mix=0\.5"):
        Distill(mix=0.5).check("encoder")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, r"loss\.temperature=0\.0"),
        ({"mix": 1.5}, r"loss\.mix=1\.5"),
        ({"teacher": "me"}, r"loss\.teacher='me'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Distill(**options)
