"""Load and save tokenizers."""

from __future__ import annotations

import json
import os
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from qat.errors import InputError

_VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)


def has_tokenizer(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a tokenizer's vocabulary."""
    return any((Path(folder) / name).is_file() for name in _VOCABULARIES)


def load_tokenizer(folder: str | os.PathLike[str], trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a Hugging Face folder.

    Raises:
        InputError: if the folder has no tokenizer, or one that transformers cannot read.
    """
    if not has_tokenizer(folder):
        raise InputError(
            f"no tokenizer in {folder} (looked for {', '.join(_VOCABULARIES)}); "
            "name a folder that has one with model.tokenizer=<folder>"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except Exception as error:  # the Rust core of tokenizers raises plain Exception
        first = str(error).strip().split("\n")[0]
        raise InputError(f"the tokenizer in {folder} cannot be loaded: {first}") from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: str | os.PathLike[str]) -> None:
    """Write a tokenizer so that transformers 4 and 5, and engines on either, load it.

    transformers 5 calls its generic class ``TokenizersBackend``, a name that 4 does not know;
    ``PreTrainedTokenizerFast`` is the same class in both.
    """
    tokenizer.save_pretrained(str(directory))
    path = Path(directory) / "tokenizer_config.json"
    options = json.loads(path.read_text(encoding="utf-8"))
    if options.get("tokenizer_class") == "TokenizersBackend":
        options["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(options, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
