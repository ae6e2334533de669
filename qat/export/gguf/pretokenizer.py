"""Find llama.cpp's pre-tokenizer for a ``tokenizer.json``: it takes a name, not a pattern.

llama.cpp's converter tells tokenizers apart by hashing the token ids of a test text, which only knows published
vocabularies. Here the patterns themselves are compared with those in ``llama-vocab.cpp``, so that a tokenizer
of one's own with a known pattern is found too.
"""

from __future__ import annotations

from typing import Any

from qat.errors import InputError

_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s|"
)
_CASED_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_TAIL}"
QWEN2 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_TAIL}"
TEKKEN = _CASED % ("", "") + rf"\p{{N}}|{_CASED_TAIL}"
GPT4O = _CASED % (f"{_CONTRACTION}?", f"{_CONTRACTION}?") + rf"\p{{N}}{{1,3}}|{_CASED_TAIL}"
DIGITS = r"\p{N}"

_NAMES: dict[tuple[tuple[str, ...], bool], str] = {
    ((GPT2,), False): "gpt-2",
    ((DIGITS, GPT2), False): "smollm",
    ((LLAMA3,), True): "llama-bpe",
    ((LLAMA3,), False): "smaug-bpe",
    ((QWEN2,), False): "qwen2",
    ((TEKKEN,), True): "tekken",
    ((GPT4O,), False): "gpt-4o",
}
"""(patterns, ``ignore_merges``: a word that is a token is taken whole) -> name."""


def pretokenizer(spec: dict[str, Any]) -> str:
    """llama.cpp's name for the pre-tokenizer of a byte-level BPE ``tokenizer.json``.

    Raises:
        InputError: llama.cpp has none that splits and normalizes alike.
    """
    normalizer = spec.get("normalizer")
    if normalizer is not None and normalizer["type"] != "NFC":
        raise InputError(f"gguf: llama.cpp does not normalize text as the tokenizer does ({normalizer['type']})")
    patterns = tuple(pattern for part in _parts(spec.get("pre_tokenizer")) for pattern in _patterns(part))
    name = _NAMES.get((patterns, bool(spec["model"].get("ignore_merges"))))
    if name is None:
        raise InputError(
            f"gguf: llama.cpp has no known pre-tokenizer with the patterns {list(patterns)}; if you know that one "
            "of its own splits alike, name it with export.gguf.pre"
        )
    return name


def _parts(spec: dict[str, Any] | None) -> list[dict[str, Any]]:
    if spec is None:
        return []
    return list(spec["pretokenizers"]) if spec["type"] == "Sequence" else [spec]


def _patterns(part: dict[str, Any]) -> list[str]:
    kind = part["type"]
    if kind == "ByteLevel" and not part["add_prefix_space"]:
        return [GPT2] if part["use_regex"] else []
    if kind == "Digits" and part["individual_digits"]:
        return [DIGITS]
    if kind == "Split" and "Regex" in part["pattern"]:
        kept = part["behavior"] == "Isolated" or (part["behavior"] == "Removed" and part["invert"])
        if kept:
            return [part["pattern"]["Regex"]]
    raise InputError(f"gguf: llama.cpp has no pre-tokenizer like the tokenizer's {part}")
