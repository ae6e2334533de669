"""Distillation of hidden states and relations against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from qat.errors import InputError
from qat.training.losses import Distill, DistillHidden
from qat.training.losses.distill_hidden import normalized_error, relation_divergence
from qat.training.outputs import Needs, Output


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_error_is_in_proportion_at_each_position() -> None:
    teacher = torch.tensor([[[3.0, 4.0], [100.0, 0.0]]])
    student = torch.tensor([[[3.0, 5.0], [100.0, 50.0]]])
    # 1 / 25 and 2500 / 10000
    assert normalized_error(student, teacher).item() == pytest.approx((0.04 + 0.25) / 2)
    assert normalized_error(10 * student, 10 * teacher).item() == pytest.approx((0.04 + 0.25) / 2)


def test_a_position_of_zeros_has_a_finite_error() -> None:
    assert torch.isfinite(normalized_error(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2)))


def test_relations_of_two_positions_by_hand() -> None:
    """One head of width 1; the scores of position i with j are ``x_i x_j``."""
    student, teacher = torch.tensor([[[0.0], [0.0]]]), torch.tensor([[[1.0], [2.0]]])
    causal = relation_divergence(student, teacher, width=1, causal=True)
    p = math.exp(2) / (math.exp(2) + math.exp(4))  # position 1 to 0 and to itself; position 0 has only itself
    second = p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5)
    assert causal.item() == pytest.approx(second / 2)
    both = relation_divergence(student, teacher, width=1, causal=False)
    r = math.exp(1) / (math.exp(1) + math.exp(2))
    first = r * math.log(r / 0.5) + (1 - r) * math.log((1 - r) / 0.5)
    assert both.item() == pytest.approx((first + second) / 2)


def test_relation_heads_are_slices_of_the_width_and_scores_are_scaled_by_it() -> None:
    student, teacher = random(2, 5, 8), random(2, 5, 8, seed=1)
    each = []
    for head in range(2):
        logs = []
        for tensor in (student, teacher):
            x = tensor[..., 4 * head : 4 * head + 4]
            logs.append((x @ x.mT / 2).log_softmax(-1))  # the root of 4
        each.append((logs[1].exp() * (logs[1] - logs[0])).sum(-1).mean())
    torch.testing.assert_close(relation_divergence(student, teacher, width=4, causal=False), torch.stack(each).mean())


@pytest.mark.parametrize("causal", [True, False])
def test_equal_relations_have_no_divergence_and_finite_gradients(causal: bool) -> None:
    student = (30 * random(1, 4, 4)).requires_grad_()
    loss = relation_divergence(student, student.detach(), width=2, causal=causal)
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(student.grad).all()


def test_a_width_that_does_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match=r"loss\.relation_width=3 does not divide 8"):
        relation_divergence(random(1, 2, 8), random(1, 2, 8), width=3, causal=True)


def outputs(seed: int) -> Output:
    hidden = tuple(random(1, 3, 4, seed=seed + block) for block in (1, 2))
    return Output(random(1, 3, 5, seed=seed), hidden, tuple(random(1, 3, 4, seed=seed + part) for part in (3, 4, 5)))


def test_the_loss_is_the_weighted_sum_of_its_parts() -> None:
    batch, student, teacher = {"labels": torch.tensor([[0, 1, 2]])}, outputs(0), outputs(10)
    loss = DistillHidden(kl=2.0, hidden=3.0, relations=5.0, relation_width=2)
    parts = loss("causal_lm", batch, student, teacher)
    assert torch.equal(parts["kl"], Distill()("causal_lm", batch, student, teacher)["kl"])
    errors = [normalized_error(*pair) for pair in zip(student.hidden_states, teacher.hidden_states, strict=True)]
    assert torch.equal(parts["hidden"], torch.stack(errors).mean())
    assert parts["loss"].item() == pytest.approx(
        2 * parts["kl"].item() + 3 * parts["hidden"].item() + 5 * parts["relations"].item(), rel=1e-6
    )


def test_what_has_no_weight_is_not_looked_at() -> None:
    assert DistillHidden(hidden=0.0).needs == Needs()
    assert DistillHidden(relations=1.0, relation_block=0).needs == Needs(hidden_states=True, attention_of=0)
    bare = Output(random(1, 3, 5))
    parts = DistillHidden(hidden=0.0)("causal_lm", {"labels": torch.tensor([[0, 1, 2]])}, bare, bare)
    assert set(parts) == {"loss", "kl"}


def test_an_encoder_has_no_logits_to_compare() -> None:
    with pytest.raises(InputError, match=r"loss\.kl=1\.0.*set loss\.kl=0"):
        DistillHidden().check("encoder")
    DistillHidden(kl=0.0).check("encoder")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": -1.0}, r"loss\.hidden=-1\.0 must be 0 or more"),
        ({"kl": 0.0, "hidden": 0.0}, "are all 0"),
        ({"relation_width": 0}, r"loss\.relation_width=0"),
        ({"teacher": "me"}, r"loss\.teacher='me'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DistillHidden(**options)  # type: ignore[arg-type]
