from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from qat.data.document import ChatDocument, TextDocument
from qat.data.tokenize import encode, encode_texts, tokenizer_fingerprint
from qat.errors import InputError
from qat.paths import assets_dir

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]
TEXT = "the cat sat on the mat\nand the dog ate the cat's hat; " * 20


def ids_of(encoded: Any) -> list[int]:
    return [token for piece in encoded for token in piece.ids.tolist()]


def test_eos_ends_each_text_where_the_tokenizer_adds_nothing_and_everything_is_trained(
    make_tokenizer: MakeTokenizer,
) -> None:
    tokenizer = make_tokenizer(merges=0)
    encoded = list(encode([TextDocument("ab", "1"), TextDocument("c", "2")], tokenizer))
    a, b, c = (tokenizer.convert_tokens_to_ids(letter) for letter in "abc")
    assert [piece.ids.tolist() for piece in encoded] == [[a, b, 1], [c, 1]]
    assert all(piece.trained.all() for piece in encoded)


def test_bos_and_no_eos_where_the_tokenizer_adds_bos(make_tokenizer: MakeTokenizer) -> None:
    """As Llama's does: a model trained on BOS alone between its texts predicts EOS and what follows it badly."""
    tokenizer = make_tokenizer(merges=0, adds_bos=True)
    a, b, c = (tokenizer.convert_tokens_to_ids(letter) for letter in "abc")
    encoded = encode([TextDocument("ab", "1"), TextDocument("c", "2")], tokenizer)
    assert [piece.ids.tolist() for piece in encoded] == [[0, a, b], [0, c]]


@pytest.mark.parametrize(
    ("adds_bos", "add_eos", "before", "after"),
    [
        (False, None, [], [1]),
        (False, True, [], [1]),
        (False, False, [], []),
        (True, None, [0], []),
        (True, True, [0], [1]),
        (True, False, [0], []),
    ],
)
def test_a_document_says_whether_eos_ends_it(
    make_tokenizer: MakeTokenizer, adds_bos: bool, add_eos: bool | None, before: list[int], after: list[int]
) -> None:
    tokenizer = make_tokenizer(merges=0, adds_bos=adds_bos)
    a, b = (tokenizer.convert_tokens_to_ids(letter) for letter in "ab")
    encoded = encode([TextDocument("a", "1", add_eos), TextDocument("b", "2")], tokenizer)
    other = [b] if adds_bos else [b, 1]
    assert ids_of(encoded) == [*before, a, *after, *before, *other]


def test_eos_asked_for_and_not_there(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(InputError, match=r"data\.add_eos=true, and the tokenizer of '.*' has no EOS token; set"):
        list(encode([TextDocument("a", "1", add_eos=True)], make_tokenizer(eos_token=None)))


def test_no_eos_where_the_tokenizer_has_none(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(eos_token=None)
    assert ids_of(encode([TextDocument(TEXT, "1")], tokenizer)) == tokenizer(TEXT)["input_ids"]


def test_an_encoders_own_frame_is_kept_and_eos_not_doubled() -> None:
    backend = Tokenizer(models.WordLevel({"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "cat": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[SEP]", unk_token="[UNK]")
    documents = [TextDocument("cat dog", "1"), TextDocument("cat", "2", add_eos=True)]
    assert ids_of(encode(documents, tokenizer)) == [0, 3, 2, 1, 0, 3, 1]


def test_an_encoders_own_frame_is_no_eos_token(make_tokenizer: MakeTokenizer) -> None:
    """BERT's SEP is not its EOS (it has none); one that has both still gets no second end."""
    tokenizer = make_tokenizer(merges=0)
    template = processors.TemplateProcessing(single="$A <|im_end|>", special_tokens=[("<|im_end|>", 3)])
    tokenizer.backend_tokenizer.post_processor = template
    assert ids_of(encode([TextDocument("a", "1")], tokenizer))[1:] == [3]


@pytest.mark.parametrize("size", [7, 30, 10_000])
def test_long_texts_in_pieces_give_the_same_tokens(make_tokenizer: MakeTokenizer, size: int) -> None:
    tokenizer = make_tokenizer(adds_bos=True)
    documents = [TextDocument(TEXT, "1", add_eos=True), TextDocument("the mat", "2", add_eos=True)]
    expected = [*tokenizer(TEXT)["input_ids"], 1, *tokenizer("the mat")["input_ids"], 1]
    assert ids_of(encode_texts(documents, tokenizer, batch_characters=size)) == expected


def test_a_long_text_without_a_space_is_cut_too(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(merges=0)
    encoded = list(encode_texts([TextDocument("x" * 25, "1")], tokenizer, batch_characters=10))
    assert [len(piece.ids) for piece in encoded] == [10, 10, 6]


def test_texts_and_chats_keep_their_order(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(merges=0)
    tokenizer.chat_template = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    chat = ChatDocument(({"role": "assistant", "content": "b"},), "2")
    a, b, c = (tokenizer.convert_tokens_to_ids(letter) for letter in "abc")
    encoded = encode([TextDocument("a", "1"), chat, TextDocument("c", "3")], tokenizer)
    assert ids_of(encoded) == [a, 1, b, c, 1]


def test_longer_than_the_model_takes_is_no_warning(
    make_tokenizer: MakeTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = make_tokenizer(model_max_length=8)
    assert len(ids_of(encode([TextDocument(TEXT, "1")], tokenizer))) > 8
    assert "longer than" not in caplog.text


def test_fingerprint_follows_what_decides_the_ids(make_tokenizer: MakeTokenizer) -> None:
    with_template = make_tokenizer()
    with_template.chat_template = "{{ messages[0].content }}"
    tokenizers = [
        make_tokenizer(),
        make_tokenizer(merges=10),
        make_tokenizer(adds_bos=True),
        make_tokenizer(eos_token=None),
        with_template,
    ]
    assert len({tokenizer_fingerprint(tokenizer) for tokenizer in tokenizers}) == 5
    assert tokenizer_fingerprint(make_tokenizer()) == tokenizer_fingerprint(make_tokenizer())


def test_fingerprint_ignores_the_last_callers_padding(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(pad_token="</s>")
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["a", "the cat"], padding=True, truncation=True, max_length=4)
    assert tokenizer_fingerprint(tokenizer) == before


def test_the_embedded_models_tokens_stay_what_it_was_trained_on() -> None:
    tokenizer = AutoTokenizer.from_pretrained(assets_dir() / "tiny_llama")
    text = "def f(x):\n    return x\n"
    assert ids_of(encode([TextDocument(text, "1")], tokenizer)) == [
        *tokenizer(text)["input_ids"],
        tokenizer.eos_token_id,
    ]
