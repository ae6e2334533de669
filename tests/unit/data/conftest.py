"""Tiny tokenizers and sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from qat.data.document import Document, Split, TextDocument

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """Byte-level BPE; ``merges=0`` gives one token a byte: count letters to count tokens."""

    def make(merges: int = 60, adds_bos: bool = False, **options: Any) -> PreTrainedTokenizerFast:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        steps: list[Any] = [processors.ByteLevel(trim_offsets=True)]
        trainer = trainers.BpeTrainer(
            vocab_size=256 + len(SPECIAL) + merges,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(["the cat sat on the mat and the dog ate the cat's hat\n"] * 4, trainer)
        if adds_bos:
            steps.append(processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)]))
        backend.post_processor = processors.Sequence(steps)
        return PreTrainedTokenizerFast(
            tokenizer_object=backend, **({"bos_token": "<s>", "eos_token": "</s>"} | options)
        )

    return make


class LetterTokenizer:
    """What `build_tokens` uses of a tokenizer: a letter's id is its code point, EOS is 0."""

    name_or_path = "letters"
    chat_template = None
    is_fast = True
    eos_token_id = 0
    special_tokens_map: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, largest: int = 0xFFFF) -> None:
        self.largest = largest

    def get_vocab(self) -> dict[str, int]:
        return {"a": 97, "largest": self.largest}

    def __call__(self, text: str | list[str], **_: Any) -> dict[str, Any]:
        if isinstance(text, str):
            return {"input_ids": [ord(letter) for letter in text]}
        return {"input_ids": [[ord(letter) for letter in one] for one in text]}


class ListSource:
    """The same texts in every split; counts how often they are read."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self.reads = 0

    def documents(self, split: Split) -> Iterator[Document]:
        self.reads += 1
        for number, text in enumerate(self.texts):
            yield TextDocument(text, f"text {number}")

    def fingerprint(self, split: Split) -> str:
        return repr(self.texts)

    def describe(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def letters() -> Callable[..., LetterTokenizer]:
    return LetterTokenizer


@pytest.fixture
def list_source() -> Callable[..., ListSource]:
    return ListSource
