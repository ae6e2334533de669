from __future__ import annotations

import math

import pytest
import torch
from support import random_llama
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from qat.data.masking import Masking
from qat.errors import InputError, RunError
from qat.evaluate import score as score_module
from qat.evaluate.score import score

VOCABULARY, BLOCK = 11, 6
MASKING = Masking(mask_id=99, vocab_size=VOCABULARY)


class Blocks:
    """Random token blocks; every third label of block 1 is not trained."""

    def __init__(self, count: int) -> None:
        self.input_ids = torch.randint(VOCABULARY, (count, BLOCK), generator=torch.Generator().manual_seed(1))
        self.labels = self.input_ids.clone()
        if count > 1:
            self.labels[1, ::3] = -100

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.input_ids[index], "labels": self.labels[index]}


def table(seed: int) -> Tensor:
    return torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def bigram(seed: int):
    """A model whose logits depend on the present token only, as a plain function (an engine)."""
    weights = table(seed)
    return lambda input_ids: weights[input_ids]


def test_loss_is_cross_entropy_of_the_shifted_labels():
    blocks = Blocks(5)
    logits = table(0)[blocks.input_ids]
    expected = F.cross_entropy(logits[:, :-1].reshape(-1, VOCABULARY), blocks.labels[:, 1:].reshape(-1))
    result = score(bigram(0), blocks, batch_size=2)
    assert result.loss == pytest.approx(expected.item(), rel=1e-6)
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert result.tokens == 5 * (BLOCK - 1) - 1  # label 3 of block 1 is not trained; label 0 is never predicted
    assert result.kl is None
    assert result.top1_agreement is None


def test_two_tokens_by_hand():
    logits = torch.tensor([[[0.0, math.log(3.0)], [0.0, 0.0], [9.0, 9.0]]])
    blocks = Blocks(1)
    blocks.input_ids = blocks.labels = torch.tensor([[0, 1, 0]])
    result = score(lambda _: logits, blocks, batch_size=1)
    assert result.tokens == 2
    assert result.loss == pytest.approx((math.log(4 / 3) + math.log(2)) / 2, rel=1e-6)


def test_loss_of_a_module_is_transformers_own():
    model, blocks = random_llama(vocab_size=VOCABULARY), Blocks(3)
    blocks.labels = blocks.input_ids.clone()
    expected = model(input_ids=blocks.input_ids, labels=blocks.labels).loss.item()
    assert score(model, blocks, batch_size=3).loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_batch_size_does_not_change_the_protocol(batch_size):
    whole = score(bigram(0), Blocks(7), batch_size=7, reference=bigram(1))
    parts = score(bigram(0), Blocks(7), batch_size=batch_size, reference=bigram(1))
    assert parts.tokens == whole.tokens
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert parts.kl == pytest.approx(whole.kl, rel=1e-6)


def test_a_large_vocabulary_in_chunks_gives_the_same(monkeypatch):
    whole = score(bigram(0), Blocks(4), batch_size=4, reference=bigram(1))
    monkeypatch.setattr(score_module, "_NUMBERS_AT_ONCE", 3 * VOCABULARY)
    chunked = score(bigram(0), Blocks(4), batch_size=4, reference=bigram(1))
    assert chunked.tokens == whole.tokens
    assert chunked.top1_agreement == whole.top1_agreement
    assert chunked.loss == pytest.approx(whole.loss, rel=1e-6)


def test_agreement_with_a_reference():
    blocks = Blocks(4)
    kept = blocks.labels[:, 1:] != -100
    p = table(1)[blocks.input_ids][:, :-1][kept].softmax(-1).double()
    q = table(0)[blocks.input_ids][:, :-1][kept].softmax(-1).double()
    result = score(bigram(0), blocks, batch_size=2, reference=bigram(1))
    assert result.kl == pytest.approx((p * (p / q).log()).sum(-1).mean().item(), rel=1e-5)
    assert result.top1_agreement == pytest.approx((p.argmax(-1) == q.argmax(-1)).double().mean().item())
    assert 0 < result.top1_agreement < 1


def test_a_model_agrees_with_itself():
    result = score(bigram(0), Blocks(4), batch_size=2, reference=bigram(0))
    assert result.kl == pytest.approx(0.0, abs=1e-7)
    assert result.top1_agreement == 1.0


def test_modes_are_restored_and_dropout_is_off():
    model = nn.ModuleDict({"net": nn.Dropout(0.5), "frozen": nn.Dropout(0.5)})
    model["frozen"].eval()
    seen = []
    weights = table(0)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, input_ids: Tensor):
            seen.append((self.training, self.parts["net"].training))
            return type("Output", (), {"logits": weights[input_ids]})

    wrapped = Model().train()
    wrapped.parts["frozen"].eval()
    score(wrapped, Blocks(2), batch_size=2)
    assert seen == [(False, False)]
    assert wrapped.training
    assert wrapped.parts["net"].training
    assert not wrapped.parts["frozen"].training


def test_masked_lm_mask_depends_on_seed_and_block_only():
    seen: dict[int, list[Tensor]] = {}

    def run(batch_size: int, seed: int) -> Tensor:
        inputs: list[Tensor] = []
        weights = table(0)

        def model(input_ids: Tensor) -> Tensor:
            inputs.append(input_ids)
            return weights[input_ids.clamp(max=VOCABULARY - 1)]

        result = score(model, Blocks(6), batch_size, task="masked_lm", masking=MASKING, seed=seed)
        assert result.tokens == 6  # 15 % of 6 is one token a block
        return torch.cat(inputs)

    seen[0] = [run(1, 0), run(4, 0)]
    assert torch.equal(seen[0][0], seen[0][1])
    assert (seen[0][0] == 99).sum(-1).tolist() == [1] * 6
    assert not torch.equal(seen[0][0], run(1, 1))


def test_masked_lm_loss_is_taken_where_the_mask_is():
    blocks = Blocks(1)
    inputs: list[Tensor] = []

    def model(input_ids: Tensor) -> Tensor:
        inputs.append(input_ids)
        return F.one_hot(blocks.input_ids, VOCABULARY).float() * 50  # knows the text by heart

    assert score(model, blocks, 1, task="masked_lm", masking=MASKING).loss == pytest.approx(0.0, abs=1e-6)
    wrong = score(
        lambda _: -50 * F.one_hot(blocks.input_ids, VOCABULARY).float(), blocks, 1, "masked_lm", None, MASKING
    )
    assert wrong.loss > 50


def test_masked_lm_is_not_scored_on_special_tokens():
    """All but two tokens are CLS or SEP: those two are all that is ever predicted, as in training."""
    blocks = Blocks(1)
    blocks.input_ids = blocks.labels = torch.tensor([[0, 5, 1, 0, 6, 1]])
    masking = Masking(mask_id=99, vocab_size=VOCABULARY, special_ids=(0, 1))
    hidden: set[int] = set()
    for seed in range(20):

        def model(input_ids: Tensor) -> Tensor:
            hidden.update(blocks.input_ids[input_ids == 99].tolist())
            return table(0)[input_ids.clamp(max=VOCABULARY - 1)]

        assert score(model, blocks, 1, task="masked_lm", masking=masking, seed=seed).tokens == 1
    assert hidden == {5, 6}


def test_encoder_is_compared_by_hidden_states():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    model = BertModel(config)
    same = score(model, Blocks(3), 2, task="encoder", reference=model)
    assert same.loss is None
    assert same.mse == 0.0
    assert same.cosine == pytest.approx(1.0)
    hidden = model.eval()(input_ids=Blocks(3).input_ids).last_hidden_state.detach()
    shifted = score(model, Blocks(3), 3, task="encoder", reference=lambda _: hidden + 2.0)
    assert shifted.mse == pytest.approx(4.0, rel=1e-5)
    assert shifted.cosine < 1.0


def test_bad_input_is_named():
    with pytest.raises(InputError, match="'casual_lm' is not one of .*did you mean 'causal_lm'"):
        score(bigram(0), Blocks(2), 2, task="casual_lm")
    with pytest.raises(InputError, match="masking is needed"):
        score(bigram(0), Blocks(2), 2, task="masked_lm")
    with pytest.raises(InputError, match="reference"):
        score(bigram(0), Blocks(2), 2, task="encoder")
    with pytest.raises(InputError, match="batch_size is 0"):
        score(bigram(0), Blocks(2), 0)
    untrained = Blocks(2)
    untrained.labels = torch.full_like(untrained.labels, -100)
    with pytest.raises(InputError, match="no token to score"):
        score(bigram(0), untrained, 2)


def test_a_loss_that_is_not_finite_is_an_error_naming_the_blocks():
    weights = table(0)
    weights[5] = math.nan
    blocks = Blocks(4)
    blocks.input_ids[:3] = blocks.labels[:3] = 1
    blocks.input_ids[3] = blocks.labels[3] = 5
    with pytest.raises(RunError, match="loss is nan in blocks 2 to 3"):
        score(lambda ids: weights[ids], blocks, 2)


def test_a_huge_finite_loss_has_infinite_perplexity():
    result = score(lambda ids: F.one_hot(ids + 1, 3).float() * 1e4, _zeros(), 1)
    assert result.loss == pytest.approx(1e4)
    assert result.perplexity == math.inf


def _zeros() -> Blocks:
    blocks = Blocks(1)
    blocks.input_ids = blocks.labels = torch.zeros(1, BLOCK, dtype=torch.int64)
    return blocks
