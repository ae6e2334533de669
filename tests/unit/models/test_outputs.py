from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from qat.models.loaded import LoadedModel
from qat.models.outputs import head_names, tied_groups

LLAMA = "model.embed_tokens"
BERT = "bert.embeddings.word_embeddings"


@pytest.mark.parametrize(
    ("name", "head", "tied"),
    [
        ("llama", {"lm_head"}, [[f"{LLAMA}.weight", "lm_head.weight"]]),
        ("mistral", {"lm_head"}, []),
        ("gemma2", {"lm_head"}, [[f"{LLAMA}.weight", "lm_head.weight"]]),
        ("gpt2", {"lm_head"}, [["transformer.wte.weight", "lm_head.weight"]]),
        ("gpt_neox", {"lm_head"}, []),
        (
            "bert",
            {"cls.predictions.decoder"},
            [
                [f"{BERT}.weight", "cls.predictions.decoder.weight"],
                ["cls.predictions.bias", "cls.predictions.decoder.bias"],
            ],
        ),
        ("minilm", set(), []),
    ],
)
def test_names(shrunk: Callable[..., LoadedModel], name: str, head: set[str], tied: list[list[str]]) -> None:
    model = shrunk(name).model
    assert head_names(model) == head
    assert tied_groups(model) == tied


def test_head_is_found_after_it_was_replaced(shrunk: Callable[..., LoadedModel]) -> None:
    model = shrunk("llama").model
    model.lm_head = nn.Linear(128, 1024)
    assert head_names(model) == {"lm_head"}
    assert tied_groups(model) == []


def test_equal_but_separate_parameters_are_not_tied() -> None:
    model = nn.ModuleList([nn.LayerNorm(4), nn.LayerNorm(4)])
    assert tied_groups(model) == []


def test_three_names_of_one_parameter_are_one_group() -> None:
    model = nn.ModuleList([nn.Linear(2, 2, bias=False) for _ in range(3)])
    for layer in model:
        layer.weight = model[0].weight
    assert tied_groups(model) == [["0.weight", "1.weight", "2.weight"]]
