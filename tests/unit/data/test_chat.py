from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import pytest
from transformers import PreTrainedTokenizerFast

from qat.data.chat import encode_chats
from qat.data.document import ChatDocument
from qat.errors import InputError

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]

PLAIN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TAGGED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
)
# Like Qwen 3: an empty thought in the last answer, none in earlier ones.
REWRITES = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think></think>' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
REFUSES = "{{ raise_exception('roles must alternate') }}"
DATED = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ date_string }}" + PLAIN
)


def chat(*turns: tuple[str, str]) -> ChatDocument:
    return ChatDocument(tuple({"role": role, "content": content} for role, content in turns), "here")


ONE = chat(("user", "Hi"), ("assistant", "Yo"))
TWO = chat(("system", "Be"), ("user", "Hi"), ("assistant", "Yo!"), ("user", "A"), ("assistant", "the cat"))


def encode(
    make: MakeTokenizer, template: str, document: ChatDocument, merges: int = 0
) -> tuple[PreTrainedTokenizerFast, list[int], list[bool]]:
    tokenizer = make(merges=merges)
    tokenizer.chat_template = template
    ((ids, trained),) = encode_chats([document], tokenizer)
    return tokenizer, ids, trained


def trained_runs(tokenizer: PreTrainedTokenizerFast, ids: list[int], trained: list[bool]) -> list[str]:
    pairs = groupby(zip(ids, trained, strict=True), key=lambda pair: pair[1])
    return [tokenizer.decode([token for token, _ in run]) for mark, run in pairs if mark]


def test_mask_by_hand_without_tags(make_tokenizer: MakeTokenizer) -> None:
    """One token a letter and a control token: 1 + "user\\n" + "Hi" + 1 + "\\n", then 1 + "assistant\\n"."""
    tokenizer, ids, trained = encode(make_tokenizer, PLAIN, ONE)
    assert trained == [False] * (1 + 5 + 2 + 1 + 1) + [False] * (1 + 10) + [True] * (2 + 1 + 1)
    assert tokenizer.decode(ids) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"


def test_mask_by_hand_with_tags(make_tokenizer: MakeTokenizer) -> None:
    """The same, with the last line end outside the tags."""
    _, ids, trained = encode(make_tokenizer, TAGGED, ONE)
    assert trained == [False] * (1 + 5 + 2 + 1 + 1) + [False] * (1 + 10) + [True] * (2 + 1) + [False]
    assert ids == encode(make_tokenizer, PLAIN, ONE)[1]


@pytest.mark.parametrize("merges", [0, 60])
def test_several_turns(make_tokenizer: MakeTokenizer, merges: int) -> None:
    plain = encode(make_tokenizer, PLAIN, TWO, merges)
    assert trained_runs(*plain) == ["Yo!<|im_end|>\n", "the cat<|im_end|>\n"]
    tagged = encode(make_tokenizer, TAGGED, TWO, merges)
    assert trained_runs(*tagged) == ["Yo!<|im_end|>", "the cat<|im_end|>"]


def test_spaces_at_the_ends_of_an_answer_are_trained(make_tokenizer: MakeTokenizer) -> None:
    """A tokenizer that trims offsets reports no character for a token that is a space."""
    document = chat(("user", "Hi"), ("assistant", "  the cat "), ("user", "A"), ("assistant", "b"))
    encoded = encode(make_tokenizer, PLAIN, document, merges=60)
    assert trained_runs(*encoded) == ["  the cat <|im_end|>\n", "b<|im_end|>\n"]


def test_a_turn_that_the_library_loses_is_an_error(make_tokenizer: MakeTokenizer) -> None:
    document = chat(("user", "Hi"), ("assistant", "  x"), ("user", "A"), ("assistant", "b"))
    with pytest.raises(InputError, match=r"here: the chat template marks 0 of 2 assistant turns"):
        encode(make_tokenizer, TAGGED, document)


def test_tags_around_the_wrong_turn(make_tokenizer: MakeTokenizer) -> None:
    template = TAGGED.replace("== 'assistant'", "== 'robot'")
    with pytest.raises(InputError, match="marks 0 of 1 assistant turns"):
        encode(make_tokenizer, template, ONE)


def test_no_template(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(name_or_path="base-model")
    with pytest.raises(InputError, match="tokenizer of 'base-model' has no chat template"):
        list(encode_chats([ONE], tokenizer))


def test_template_that_rewrites_earlier_turns(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(InputError, match="here: .* renders message 3 .*differently.*one assistant turn"):
        encode(make_tokenizer, REWRITES, TWO)
    encoded = encode(make_tokenizer, REWRITES, ONE)
    assert trained_runs(*encoded) == ["<think></think>Yo<|im_end|>\n"]


def test_template_that_refuses_the_chat(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(InputError, match="here: .* refuses this chat: roles must alternate"):
        encode(make_tokenizer, REFUSES, ONE)


def test_chat_that_begins_with_the_assistant(make_tokenizer: MakeTokenizer) -> None:
    document = chat(("assistant", "Hello"), ("user", "Hi"), ("assistant", "Yo"))
    with pytest.raises(InputError, match="here: the chat begins with the assistant"):
        encode(make_tokenizer, PLAIN, document)
    assert trained_runs(*encode(make_tokenizer, TAGGED, document)) == ["Hello<|im_end|>", "Yo<|im_end|>"]


def test_data_does_not_change_by_the_day(make_tokenizer: MakeTokenizer) -> None:
    tokenizer, ids, _ = encode(make_tokenizer, DATED, ONE)
    assert tokenizer.decode(ids).startswith("26 Jul 2024<|im_start|>user")
