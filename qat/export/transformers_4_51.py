"""The dialect of transformers 4.51.3, which Bedrock Custom Model Import and other hosts run.

transformers 5 writes files that 4.51.3 loads *without an error* and computes otherwise: it does not know
``rope_parameters`` and takes ``rope_theta`` 10000. Pure functions on the content of the JSON files; the proof is
equal logits in the engine ``transformers_4_51``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qat.errors import InputError

VERSION = "4.51.3"
MODEL_TYPES = ("gemma", "gpt2", "gpt_bigcode", "llama", "mistral", "qwen2", "qwen3")
"""Architectures whose logits were found to be the same in both versions, bit for bit."""
ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
"""Rotary embeddings of which the same holds."""

_ONLY_5 = ("dtype", "layer_types", "use_bidirectional_attention")
_TOKENIZER_ONLY_5 = ("backend", "is_local", "local_files_only")


def check(config: dict[str, Any]) -> None:
    """Return if the dialect can say what ``config`` says.

    Raises:
        InputError: an architecture or a feature that 4.51.3 lacks or computes otherwise.
    """
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise InputError(
            f"dialect transformers_4_51 is proven for {', '.join(MODEL_TYPES)}, not for model_type '{kind}'; "
            "use export.dequantized.dialect=transformers_5"
        )
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") not in ROPE_TYPES:
        raise InputError(
            f"dialect transformers_4_51 holds rope types {', '.join(ROPE_TYPES)}, not '{rope['rope_type']}'; "
            "use export.dequantized.dialect=transformers_5"
        )
    if set(config.get("layer_types") or []) - {"full_attention"}:
        raise InputError(
            "transformers 4.51.3 applies a sliding window to all layers or to none, and this model mixes them; "
            "use export.dequantized.dialect=transformers_5"
        )


def config(values: dict[str, Any]) -> dict[str, Any]:
    """``config.json`` of transformers 5 -> of 4.51.3: ``rope_theta`` and ``rope_scaling``, ``torch_dtype``."""
    result = {key: value for key, value in values.items() if key not in (*_ONLY_5, "rope_parameters")}
    result |= {"torch_dtype": values["dtype"], "transformers_version": VERSION}
    if rope := dict(values.get("rope_parameters") or {}):
        result["rope_theta"] = rope.pop("rope_theta", 10000.0)
        if (partial := rope.pop("partial_rotary_factor", None)) is not None:
            result["partial_rotary_factor"] = partial
        result["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
    return result


def tokenizer_config(values: dict[str, Any], tokenizer: dict[str, Any] | None, template: str | None) -> dict[str, Any]:
    """``tokenizer_config.json`` of transformers 5 -> of 4.51.3.

    With a ``tokenizer.json`` the class becomes ``PreTrainedTokenizerFast``, which runs that file as it is. The
    classes of a model's own (``LlamaTokenizerFast``, ...) would set rules of 4.51.3 in place of the file's.

    Args:
        values: as transformers 5 wrote it.
        tokenizer: content of ``tokenizer.json``, if there is one.
        template: content of ``chat_template.jinja``, if there is one; it overrides an embedded template.
    """
    result = {key: value for key, value in values.items() if key not in _TOKENIZER_ONLY_5}
    result.setdefault("clean_up_tokenization_spaces", False)
    if isinstance(extra := result.get("extra_special_tokens"), list):  # a list in 5, a mapping in 4
        del result["extra_special_tokens"]
        result["additional_special_tokens"] = [*result.get("additional_special_tokens", []), *extra]
    if tokenizer is not None:
        result["tokenizer_class"] = "PreTrainedTokenizerFast"
        # 4.51.3 sets the file's own value to this option, and to False where it is missing.
        result.pop("add_prefix_space", None)
        prefix = (tokenizer.get("pre_tokenizer") or {}).get("add_prefix_space")
        if prefix is not None:
            result["add_prefix_space"] = prefix
    if template is not None:
        result["chat_template"] = template
    return result


def rewrite_tokenizer(directory: Path) -> None:
    """Turn the tokenizer files in ``directory`` into the dialect; a folder without them is left as it is."""
    path, fast, template = (directory / n for n in ("tokenizer_config.json", "tokenizer.json", "chat_template.jinja"))
    if not path.is_file():
        return
    values = tokenizer_config(
        json.loads(path.read_text(encoding="utf-8")),
        json.loads(fast.read_text(encoding="utf-8")) if fast.is_file() else None,
        template.read_text(encoding="utf-8") if template.is_file() else None,
    )
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    template.unlink(missing_ok=True)
