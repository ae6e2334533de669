"""``python -m llama_cpp.server`` with the options that it is given here, and a chat template that it can be given.

Run as ``llama_cpp_server.py CHAT OPTIONS...``; CHAT is a JSON file with ``template`` (null: that of the model) and the
texts ``bos_token`` and ``eos_token``. The server itself also reads options from variables of the environment with names
as general as HOST and API_KEY, which are some other program's: they are left out. A request that does not say otherwise
gets the model's own distribution: the server would take a repetition penalty, top_k and min_p, even at temperature 0.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

from llama_cpp.llama_chat_format import (  # type: ignore[import-not-found]
    Jinja2ChatFormatter,
    register_chat_completion_handler,
)
from llama_cpp.server.settings import Settings  # type: ignore[import-not-found]
from llama_cpp.server.types import CreateChatCompletionRequest  # type: ignore[import-not-found]

_FORMAT = "given"
_NEUTRAL = {"repeat_penalty": 1.0, "top_k": 0, "min_p": 0.0}


def main(words: list[str]) -> None:
    """Serve until a signal ends the process."""
    for name in [*os.environ]:
        if name.lower() in {*Settings.model_fields, "config_file"}:
            del os.environ[name]
    for name, value in _NEUTRAL.items():
        CreateChatCompletionRequest.model_fields[name].default = value
    CreateChatCompletionRequest.model_rebuild(force=True)
    chat = json.loads(Path(words[0]).read_text(encoding="utf-8"))
    options = words[1:]
    if (template := chat.pop("template")) is not None:
        register_chat_completion_handler(_FORMAT)(Jinja2ChatFormatter(template=template, **chat).to_chat_handler())
        options += ["--chat_format", _FORMAT]
    sys.argv = ["llama_cpp.server", *options]
    runpy.run_module("llama_cpp.server", run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
