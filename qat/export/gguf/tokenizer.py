"""A Hugging Face tokenizer as GGUF metadata: vocabulary, merges or scores, special tokens, chat template.

Two kinds of BPE are what the supported models have:

- byte-level (GPT-2, Llama 3, Qwen): merges, and the name of a pre-tokenizer;
- SentencePiece-like (Llama 2, Mistral, Gemma: BPE with byte fallback): llama.cpp merges the two neighbours whose
  union has the highest score, so scores are made of the ranks of the merges. That is the same order only if every
  way to split a token into two others is a merge, one token after the other. It is checked.

What llama.cpp does not do, so that ids differ where it matters: NFC on text that is not NFC (Qwen); joining runs of
spaces and stripping the text's ends, where a tokenizer does (the file's metadata says so); ``prepend_scheme: first``
(Llama 2): llama.cpp puts a space also after a special token inside a text, as transformers' legacy tokenizer did.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType

from qat.errors import InputError
from qat.export.gguf.pretokenizer import pretokenizer
from qat.models.tokenizer import load_tokenizer

_SPACE = "▁"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_PROBE = "a"


def add_no_tokenizer(writer: GGUFWriter) -> None:
    """Say that the file has no tokenizer: engines then take and give token ids."""
    writer.add_tokenizer_model("none")


def add_tokenizer(
    writer: GGUFWriter, directory: Path, vocabulary: int, stops: Sequence[int], pre: str | None = None
) -> None:
    """Write the tokenizer that lies in ``directory``.

    Args:
        writer: of the file.
        directory: holds the tokenizer's files.
        vocabulary: rows of the model's embedding; ids that the tokenizer lacks become unused tokens.
        stops: ids that end a generation; the first is used where the tokenizer names no end of its own.
        pre: llama.cpp's name of the pre-tokenizer; None finds it.

    Raises:
        InputError: no tokenizer, or one that llama.cpp would tokenize differently.
    """
    tokenizer: Any = load_tokenizer(directory)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    spec: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {}
    model = spec.get("model", {"type": type(tokenizer).__name__})
    if model["type"] != "BPE":
        raise InputError(f"gguf holds BPE tokenizers only, and this one is {model['type']}")
    tokens = _by_id(spec, vocabulary)
    byte_level = not model.get("byte_fallback")
    if byte_level:
        if (spec.get("decoder") or {}).get("type") != "ByteLevel":
            raise InputError("gguf: llama.cpp needs a BPE on bytes or with byte_fallback; this tokenizer has neither")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre or pretokenizer(spec))
        writer.add_token_merges([f"{left} {right}" for left, right in model["merges"]])
    else:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(spec, tokens))
        _add_spaces(writer, spec)
    types = _types(spec, tokens, byte_level)
    writer.add_token_list([token or f"[PAD{index}]" for index, token in enumerate(tokens)])
    writer.add_token_types(types)
    _add_special(writer, tokenizer, stops)


def _by_id(spec: dict[str, Any], vocabulary: int) -> list[str | None]:
    ids = dict(spec["model"]["vocab"])
    ids |= {token["content"]: token["id"] for token in spec["added_tokens"]}
    largest = max(ids.values())
    if largest >= vocabulary:
        raise InputError(f"the tokenizer has the id {largest} and the model's vocabulary ends at {vocabulary - 1}")
    tokens: list[str | None] = [None] * vocabulary
    for token, index in ids.items():
        tokens[index] = token
    return tokens


def _types(spec: dict[str, Any], tokens: list[str | None], byte_level: bool) -> list[int]:
    types = [TokenType.UNUSED if token is None else TokenType.NORMAL for token in tokens]
    for index, token in enumerate(tokens):
        if not byte_level and token is not None and _BYTE.fullmatch(token):
            types[index] = TokenType.BYTE
    for added in spec["added_tokens"]:
        types[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        if not byte_level and added["content"] == spec["model"].get("unk_token"):
            types[added["id"]] = TokenType.UNKNOWN
    return [int(kind) for kind in types]


def _scores(spec: dict[str, Any], tokens: list[str | None]) -> list[float]:
    """Minus the rank of a token among the merged ones; llama.cpp reads only the order."""
    added = {token["content"] for token in spec["added_tokens"]}
    vocab: Mapping[str, int] = spec["model"]["vocab"]
    ranks: dict[str, int] = {}
    pairs = [(left, right) for left, right in spec["model"]["merges"]]
    last = None
    for left, right in pairs:
        token = left + right
        if token in ranks and token != last:
            raise InputError(f"gguf: llama.cpp cannot follow the tokenizer's merges: those of '{token}' lie apart")
        ranks.setdefault(token, len(ranks))
        last = token
    known = set(pairs)
    for token in vocab.keys() - added:
        for cut in range(1, len(token)):
            pair = token[:cut], token[cut:]
            if pair not in known and pair[0] in vocab and pair[1] in vocab:
                raise InputError(
                    f"gguf: llama.cpp would join '{pair[0]}' and '{pair[1]}', which the tokenizer's merges do not"
                )
    lowest = -float(len(ranks) + 1)
    return [lowest if token is None else -float(ranks.get(token, len(ranks))) for token in tokens]


def _add_spaces(writer: GGUFWriter, spec: dict[str, Any]) -> None:
    """How spaces become ``▁``: only the forms that llama.cpp knows are taken."""
    normalizer, pre = spec.get("normalizer"), spec.get("pre_tokenizer")
    steps: list[dict[str, Any]] = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    prefix = replaced = False
    for step in steps:
        pattern = step.get("pattern", {})
        if step["type"] == "Prepend" and step["prepend"] == _SPACE:
            prefix = True
        elif step["type"] == "Replace" and pattern.get("String") == " " and step["content"] == _SPACE:
            replaced = True
        else:
            raise InputError(f"gguf: llama.cpp does not normalize text as the tokenizer does: {step}")
    if pre is not None and pre["type"] == "Metaspace" and not pre.get("split", True):
        prefix, replaced = pre["prepend_scheme"] != "never", True
    elif pre is not None and not _splits_nothing(pre, replaced):
        raise InputError(f"gguf: llama.cpp has no pre-tokenizer like the tokenizer's {pre}")
    if not replaced:
        raise InputError(f"gguf: llama.cpp writes spaces as '{_SPACE}', and this tokenizer does not")
    writer.add_add_space_prefix(prefix)


def _splits_nothing(pre: dict[str, Any], replaced: bool) -> bool:
    """Gemma's pre-tokenizer splits at spaces, of which its normalizer has left none."""
    return replaced and pre["type"] == "Split" and pre["pattern"].get("String") == " "


def _add_special(writer: GGUFWriter, tokenizer: Any, stops: Sequence[int]) -> None:
    """Ids of special tokens, which of them are added to a text, and the chat template.

    gguf's ``SpecialVocab`` guesses them from the tokenizer's files; here the tokenizer itself is asked.
    """
    ids = {kind: getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "unk", "sep", "pad", "mask")}
    ends = dict.fromkeys([*([] if ids["eos"] is None else [ids["eos"]]), *stops])
    ids |= dict(zip(("eos", "eot", "eom"), ends, strict=False))
    for kind, index in ids.items():
        if index is not None:
            getattr(writer, f"add_{kind}_token_id")(index)
    bos, eos = _added_at_ends(tokenizer)
    writer.add_add_bos_token(bos)
    writer.add_add_eos_token(eos)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in template.items()]
    if template:
        writer.add_chat_template(template)


def _added_at_ends(tokenizer: Any) -> tuple[bool, bool]:
    """Whether the tokenizer adds its first and last token to a text: seen, since it has many ways to say so."""
    plain, whole = (tokenizer.encode(_PROBE, add_special_tokens=add) for add in (False, True))
    bos, eos = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
    for first in (False, True):
        for last in (False, True):
            if whole == bos * first + plain + eos * last:
                return first, last
    raise InputError("gguf: llama.cpp adds at most a bos and an eos token to a text; this tokenizer adds others")
