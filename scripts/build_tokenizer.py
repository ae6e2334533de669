"""Train tiny_llama's tokenizer on Python's standard library; write it, with the config, into the package.

    python scripts/build_tokenizer.py

The weights are made afterwards by ``qat train recipe=demo/base``: they depend on this tokenizer.
"""

from __future__ import annotations

from transformers import GenerationConfig

from qat.data.python_stdlib import PythonStdlib
from qat.models import tiny_llama
from qat.models.tokenizer import save_tokenizer


def main() -> None:
    """Write tokenizer.json, tokenizer_config.json, config.json and generation_config.json."""
    source = PythonStdlib()
    tokenizer = tiny_llama.train_tokenizer(document.text for document in source.documents("train"))
    folder = tiny_llama.directory()
    save_tokenizer(tokenizer, folder)
    tiny_llama.config().save_pretrained(folder)
    GenerationConfig.from_model_config(tiny_llama.config()).save_pretrained(folder)

    held_out = [document.text for document in source.documents("validation")]
    tokens = sum(len(ids) for ids in tokenizer(held_out)["input_ids"])
    size = sum(len(text.encode()) for text in held_out)
    print(f"{folder}: {len(tokenizer)} tokens, {size / tokens:.3f} bytes a token on the validation split")


if __name__ == "__main__":
    main()
