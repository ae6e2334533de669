"""transformers 4.51.3, the release that Bedrock's Custom Model Import loads models with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from worker_causal_lm import CausalLM  # type: ignore[import-not-found]
from worker_protocol import NotAvailable, serve  # type: ignore[import-not-found]

_directory = ""
_held = CausalLM()


def load(directory: str, dtype: str, attention: str) -> dict[str, str]:
    """Load the export in ``directory``; tensors that are missing or have no place are errors."""
    global _directory
    if "rope_parameters" in json.loads((Path(directory) / "config.json").read_text(encoding="utf-8")):
        # It would load without an error and take a rotary base of 10000, whatever was trained.
        raise NotAvailable("not in its dialect; export with export.dequantized.dialect=transformers_4_51")
    auto: Any = transformers.AutoModelForCausalLM
    model, info = auto.from_pretrained(
        directory,
        torch_dtype=getattr(torch, dtype),
        attn_implementation=attention,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            raise ValueError(f"{problem}: {', '.join(map(str, sorted(info[problem])[:3]))}")
    _directory, _held.model = directory, model.eval()
    how = f"{dtype}, {model.config._attn_implementation} attention"
    return {"description": f"transformers {transformers.__version__} ({how})", "dtype": dtype}


def tokenize(text: str) -> list[int]:
    """Token ids by the export's tokenizer."""
    return list(_tokenizer()(text).input_ids)


def chat(messages: list[dict[str, str]]) -> str:
    """``messages`` in the export's chat template, ready for an answer."""
    return str(_tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(_directory, local_files_only=True)


if __name__ == "__main__":
    handlers = (load, _held.logits, _held.continue_greedily, _held.weight, tokenize, chat)
    serve({handler.__name__: handler for handler in handlers})
