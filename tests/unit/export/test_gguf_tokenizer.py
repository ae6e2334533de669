from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter, TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from tokenizers.pre_tokenizers import ByteLevel, Digits, Metaspace, Sequence, Split
from transformers import PreTrainedTokenizerFast

from qat.errors import InputError
from qat.export.gguf.pretokenizer import GPT2, LLAMA3, QWEN2, TEKKEN
from qat.export.gguf.tokenizer import add_tokenizer

SPACE = "▁"


def byte_level(pre: Any, ignore_merges: bool = False, normalizer: Any = None, decoder: Any = None) -> Tokenizer:
    letters = sorted(ByteLevel.alphabet())
    vocab = {letter: index for index, letter in enumerate([*letters, "he", "the"])}
    made = Tokenizer(models.BPE(vocab, [("h", "e"), ("t", "he")], ignore_merges=ignore_merges))
    made.pre_tokenizer, made.decoder = pre, decoder or decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    return made


def split(pattern: str) -> Any:
    return Sequence([Split(Regex(pattern), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)])


def sentencepiece(merges: list[tuple[str, str]], byte_fallback: bool = True, **parts: Any) -> Tokenizer:
    pieces = [SPACE, "t", "h", "e", "th", "he", "the", f"{SPACE}the"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocab = {name: index for index, name in enumerate(names)}
    made = Tokenizer(models.BPE(vocab, merges, byte_fallback=byte_fallback, unk_token="<unk>"))
    legacy = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    made.normalizer = parts.get("normalizer", legacy)
    if "pre" in parts:
        made.pre_tokenizer = parts["pre"]
    made.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names[:3]])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


EVERY_SPLIT = [("h", "e"), ("t", "h"), ("t", "he"), ("th", "e"), (SPACE, "the")]


def fields(tokenizer: Tokenizer, folder: Path, vocabulary: int = 300, stops: tuple[int, ...] = (), **more) -> dict:
    template = more.pop("chat_template", None)
    pre = more.pop("pre", None)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **more)
    wrapped.chat_template = template
    wrapped.save_pretrained(folder)
    writer = GGUFWriter(None, "llama")
    add_tokenizer(writer, folder, vocabulary, stops, pre)
    found = {name: value.value for name, value in writer.kv_data[0].items()}
    return {name.removeprefix("tokenizer.").removeprefix("ggml."): value for name, value in found.items()}


@pytest.mark.parametrize(
    ("pre", "ignore_merges", "name"),
    [
        (ByteLevel(add_prefix_space=False), False, "gpt-2"),
        (split(GPT2), False, "gpt-2"),
        (Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]), False, "smollm"),
        (split(LLAMA3), True, "llama-bpe"),
        (split(LLAMA3), False, "smaug-bpe"),
        (split(QWEN2), False, "qwen2"),
        (split(TEKKEN), True, "tekken"),
    ],
)
def test_the_pretokenizer_is_found_by_its_patterns(tmp_path, pre, ignore_merges, name):
    found = fields(byte_level(pre, ignore_merges), tmp_path)
    assert (found["model"], found["pre"]) == ("gpt2", name)
    assert found["merges"] == ["h e", "t he"]
    assert len(found["tokens"]) == len(found["token_type"]) == 300
    assert found["token_type"][257:259] == [TokenType.NORMAL, TokenType.UNUSED]


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (byte_level(split("[a-z]+")), "no known pre-tokenizer"),
        (byte_level(split(QWEN2), ignore_merges=True), "no known pre-tokenizer"),
        (byte_level(ByteLevel(add_prefix_space=True)), "no pre-tokenizer like"),
        (byte_level(split(QWEN2), normalizer=normalizers.Lowercase()), "normalize"),
        (byte_level(split(QWEN2), decoder=decoders.Fuse()), "neither"),
        (Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")), "WordLevel"),
        (sentencepiece(EVERY_SPLIT[:2] + EVERY_SPLIT[3:]), "join 't' and 'he'"),
        (sentencepiece([*EVERY_SPLIT[:3], EVERY_SPLIT[4], EVERY_SPLIT[3]]), "lie apart"),
        (sentencepiece(EVERY_SPLIT, byte_fallback=False), "neither"),
        (sentencepiece(EVERY_SPLIT, normalizer=normalizers.NFKC()), "normalize"),
        (sentencepiece(EVERY_SPLIT, normalizer=normalizers.Prepend(SPACE)), "writes spaces"),
    ],
)
def test_what_llama_cpp_would_tokenize_otherwise_is_refused(tmp_path, tokenizer, message):
    with pytest.raises(InputError, match=message):
        fields(tokenizer, tmp_path)


def test_a_pretokenizer_can_be_named(tmp_path):
    assert fields(byte_level(split("[a-z]+")), tmp_path, pre="mine")["pre"] == "mine"


def test_scores_follow_the_merges(tmp_path):
    found = fields(sentencepiece(EVERY_SPLIT), tmp_path, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    scores = dict(zip(found["tokens"], found["scores"], strict=True))
    order = sorted(("he", "th", "the", f"{SPACE}the"), key=scores.__getitem__, reverse=True)
    assert order == ["he", "th", "the", f"{SPACE}the"]
    kinds = dict(zip(found["tokens"], found["token_type"], strict=True))
    assert (kinds["<unk>"], kinds["<s>"], kinds["<0x0A>"], kinds["the"]) == (
        TokenType.UNKNOWN,
        TokenType.CONTROL,
        TokenType.BYTE,
        TokenType.NORMAL,
    )


@pytest.mark.parametrize(
    ("parts", "prefix"),
    [
        ({}, True),
        ({"normalizer": normalizers.Replace(" ", SPACE)}, False),
        ({"normalizer": normalizers.Replace(" ", SPACE), "pre": Split(" ", "merged_with_previous")}, False),
        ({"normalizer": None, "pre": Metaspace(prepend_scheme="first", split=False)}, True),
        ({"normalizer": None, "pre": Metaspace(prepend_scheme="never", split=False)}, False),
    ],
)
def test_the_space_before_a_text(tmp_path, parts, prefix):
    assert fields(sentencepiece(EVERY_SPLIT, **parts), tmp_path, bos_token="<s>")["add_space_prefix"] is prefix


def test_special_tokens_and_template_are_the_tokenizers_own(tmp_path):
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    template = "{{ messages[0]['content'] }}"
    found = fields(sentencepiece(EVERY_SPLIT), tmp_path, stops=(2, 259, 260), chat_template=template, **names)
    ids = [found[f"{kind}_token_id"] for kind in ("bos", "eos", "eot", "eom", "unknown")]
    assert ids == [1, 2, 259, 260, 0]
    assert (found["add_bos_token"], found["add_eos_token"]) == (True, False)
    assert found["chat_template"] == template


def test_a_vocabulary_that_the_model_lacks_is_refused(tmp_path):
    with pytest.raises(InputError, match="ends at 99"):
        fields(byte_level(split(QWEN2)), tmp_path, vocabulary=100)


def test_a_vocabulary_of_exactly_the_models_size_is_taken(tmp_path):
    assert len(fields(byte_level(split(QWEN2)), tmp_path, vocabulary=258)["tokens"]) == 258
    with pytest.raises(InputError, match="has the id 257 and the model's vocabulary ends at 256"):
        fields(byte_level(split(QWEN2)), tmp_path, vocabulary=257)


def edited(tokenizer: Tokenizer, **vocab: int) -> Tokenizer:
    """The same with more entries in the vocabulary of its model."""
    spec = json.loads(tokenizer.to_str())
    spec["model"]["vocab"] |= vocab
    return Tokenizer.from_str(json.dumps(spec))


def test_what_looks_like_a_byte_is_one_only_with_byte_fallback(tmp_path):
    found = fields(edited(byte_level(split(QWEN2)), **{"<0x0A>": 258}), tmp_path)
    assert found["tokens"][258] == "<0x0A>"
    assert found["token_type"][258] == TokenType.NORMAL


def test_scores_and_types_by_hand(tmp_path):
    tokenizer = edited(sentencepiece(EVERY_SPLIT), thth=267)  # an added token may be of parts that no merge joins
    tokenizer.add_special_tokens([AddedToken("thth", special=True, normalized=False)])
    tokenizer.add_tokens([AddedToken("own", special=False, normalized=False)])
    found = fields(tokenizer, tmp_path, vocabulary=270, bos_token="<s>", unk_token="<unk>")
    scores, types = (dict(zip(found["tokens"], found[key], strict=True)) for key in ("scores", "token_type"))
    expected = {"he": -0.0, "th": -1.0, "the": -2.0, f"{SPACE}the": -3.0, "t": -4.0, "thth": -4.0, "own": -4.0}
    assert {token: scores[token] for token in expected} == expected
    assert scores["[PAD269]"] == -5.0
    assert (types["thth"], types["own"]) == (TokenType.CONTROL, TokenType.USER_DEFINED)
    assert (types["[PAD269]"], types["t"]) == (TokenType.UNUSED, TokenType.NORMAL)


LEGACY = [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"normalizer": normalizers.Sequence([normalizers.Prepend("x"), LEGACY[1]])}, "does not normalize"),
        ({"normalizer": normalizers.Replace(" ", "_")}, "does not normalize"),
        ({"normalizer": normalizers.Replace("a", SPACE)}, "does not normalize"),
        # llama.cpp joins spaces in its unigram tokenizer only, whatever `remove_extra_whitespaces` says.
        (
            {"normalizer": normalizers.Sequence([normalizers.Replace(Regex(" {2,}"), " "), *LEGACY])},
            "does not normalize",
        ),
        ({"normalizer": normalizers.Sequence([normalizers.Replace(Regex(" +"), ""), LEGACY[1]])}, "does not normalize"),
        ({"normalizer": None, "pre": Metaspace(prepend_scheme="always", split=True)}, "no pre-tokenizer like"),
        ({"normalizer": LEGACY[1], "pre": Split("a", "isolated")}, "no pre-tokenizer like"),
        ({"normalizer": None, "pre": Split(" ", "merged_with_previous")}, "no pre-tokenizer like"),
    ],
)
def test_other_ways_with_spaces_are_refused(tmp_path, parts, message):
    with pytest.raises(InputError, match=message):
        fields(sentencepiece(EVERY_SPLIT, **parts), tmp_path, bos_token="<s>")


def test_the_tokenizers_own_end_comes_before_those_of_the_model(tmp_path):
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    found = fields(sentencepiece(EVERY_SPLIT), tmp_path, stops=(259, 2), **names)
    ids = {name: value for name, value in found.items() if name.endswith("_token_id")}
    assert ids == {"bos_token_id": 1, "eos_token_id": 2, "eot_token_id": 259, "padding_token_id": 0}


def test_named_templates_are_all_written(tmp_path):
    templates = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    found = fields(sentencepiece(EVERY_SPLIT), tmp_path, chat_template=templates, bos_token="<s>")
    assert (found["chat_template"], found["chat_template.tool_use"]) == tuple(templates.values())
