"""``python -m llama_cpp.server`` with the options that it is given here, and a chat template that it can be given.

Run as ``llama_cpp_server.py CHAT OPTIONS...``; CHAT is a JSON file with ``template`` (null: that of the model) and the
texts ``bos_token`` and ``eos_token``. An API key, which no list of processes is to show, is in the environment. The
server itself also reads options from variables with names as general as HOST and API_KEY, which are some other
program's: they are left out. A request that does not say otherwise gets the model's own distribution: the server would
take a repetition penalty, top_k and min_p, even at temperature 0. And a stream ends with its usage, of which the server
says nothing.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_cpp import Llama, llama_vocab_is_eog  # type: ignore[import-not-found]
from llama_cpp.llama_chat_format import (  # type: ignore[import-not-found]
    Jinja2ChatFormatter,
    register_chat_completion_handler,
)
from llama_cpp.server.settings import Settings  # type: ignore[import-not-found]
from llama_cpp.server.types import CreateChatCompletionRequest  # type: ignore[import-not-found]

_FORMAT = "given"
_KEY = "QAT_LLAMA_CPP_KEY"
_NEUTRAL = {"repeat_penalty": 1.0, "top_k": 0, "min_p": 0.0}


def main(words: list[str]) -> None:
    """Serve until a signal ends the process."""
    for name in [*os.environ]:
        if name.lower() in {*Settings.model_fields, "config_file"}:
            del os.environ[name]
    for name, value in _NEUTRAL.items():
        CreateChatCompletionRequest.model_fields[name].default = value
    CreateChatCompletionRequest.model_rebuild(force=True)
    _tell_usage()
    chat = json.loads(Path(words[0]).read_text(encoding="utf-8"))
    options = words[1:]
    if (template := chat.pop("template")) is not None:
        register_chat_completion_handler(_FORMAT)(Jinja2ChatFormatter(template=template, **chat).to_chat_handler())
        options += ["--chat_format", _FORMAT]
    if (key := os.environ.pop(_KEY, None)) is not None:
        options += ["--api_key", key]
    sys.argv = ["llama_cpp.server", *options]
    runpy.run_module("llama_cpp.server", run_name="__main__")


def _tell_usage() -> None:
    """Let each stream end with a chunk that has its usage, as OpenAI's does if it is asked to.

    Tokens are counted where they are made, as the server counts those of a whole answer: a piece of a stream may be of
    several tokens, or of none.
    """
    generate, create = Llama.generate, Llama.create_chat_completion

    def counted(self: Any, tokens: Any, *arguments: Any, **options: Any) -> Iterator[int]:
        self.prompt_tokens, self.completion_tokens = len(tokens), 0
        for token in generate(self, tokens, *arguments, **options):
            self.completion_tokens += not llama_vocab_is_eog(self._model.vocab, token)
            yield token

    def told(self: Any, *arguments: Any, **options: Any) -> Any:
        answer = create(self, *arguments, **options)
        return _with_usage(self, answer) if options.get("stream") else answer

    Llama.generate, Llama.create_chat_completion = counted, told


def _with_usage(llama: Any, chunks: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    head: dict[str, Any] = {}
    for chunk in chunks:
        head = {name: chunk[name] for name in ("id", "object", "created", "model")}
        yield chunk
    counts = {"prompt_tokens": llama.prompt_tokens, "completion_tokens": llama.completion_tokens}
    usage = counts | {"total_tokens": sum(counts.values())}
    yield head | {"choices": [], "usage": usage}


if __name__ == "__main__":
    main(sys.argv[1:])
