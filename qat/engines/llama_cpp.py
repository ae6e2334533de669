"""llama.cpp, for GGUF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch

from qat.engines.base import NotAvailable
from qat.engines.chat_template import counter_of, of_gguf, template_of
from qat.engines.foreign import Foreign
from qat.engines.serving import LOOPBACK, NO_PARSERS, ServerLaunch, scratch
from qat.environments import ON_THE_CPU
from qat.errors import InputError

_CACHE_TYPES = {"f32": 0, "f16": 1}  # as ggml numbers them
_MODEL = "qat"
_KEY = "QAT_LLAMA_CPP_KEY"  # as its script reads it


class LlamaCppEngine(Foreign):
    """llama-cpp-python on the CPU.

    llama.cpp rounds the input of every Q4_0 and Q8_0 matrix to INT8 in blocks of 32, and of F16 matrices to F16.

    Args:
        threads: None: as many as torch uses here.
        context: longest sequence in tokens; the logits of that many are kept in memory.
        kv_cache: type of keys and values; llama.cpp's own default is f16, which rounds them.
        time_limit: seconds that loading, and every later question, may take.
    """

    formats = frozenset({"gguf"})
    serves = True
    environment = "llama_cpp"
    package = "llama_cpp"

    def __init__(
        self,
        threads: int | None = None,
        context: int = 2048,
        kv_cache: Literal["f32", "f16"] = "f32",
        time_limit: float = 3600.0,
    ) -> None:
        super().__init__(time_limit, threads=threads or torch.get_num_threads(), context=context, kv_cache=kv_cache)

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Token ids by the tokenizer inside the file; ``special`` adds its first and last token.

        Raises:
            RunError: the file has none.
        """
        ids: list[int] = self.ask("tokenize", text=text, special=special)
        return ids

    def server(self, directory: Path, port: int, chat_template: str | None = None) -> ServerLaunch:
        """See the base class: ``python -m llama_cpp.server``; one request after the other, none interrupted.

        Raises:
            InputError: not one GGUF file, or one whose tokenizer names no last token.
            NotAvailable: an environment without the server's packages.
        """
        if not [*self.python.folder.glob("lib/python*/site-packages/starlette_context/__init__.py")]:
            raise NotAvailable("its environment is of before qat serve and has no server: scripts/engines.sh llama_cpp")
        found = sorted(directory.glob("*.gguf"))
        if len(found) != 1:
            raise InputError(f"{directory} has {len(found)} GGUF files, and one is served")
        chat = of_gguf(found[0])
        template = template_of(chat_template, chat, directory)
        if not chat.eos:  # the server stops at this text, and the empty one is everywhere
            raise InputError(f"{found[0]} names no token that ends a text, which llama.cpp's server needs")
        files = scratch()
        told = Path(files.name) / "chat.json"
        tokens = {"bos_token": chat.bos, "eos_token": chat.eos}
        told.write_text(json.dumps({"template": template, **tokens}), encoding="utf-8")
        context = min(self._options["context"], chat.context or self._options["context"])
        options = {
            "model": found[0].resolve(),
            "model_alias": _MODEL,
            "host": LOOPBACK,
            "port": port,
            "interrupt_requests": False,
            "n_ctx": context,
            "n_threads": self._options["threads"],
            "n_threads_batch": self._options["threads"],
            "type_k": _CACHE_TYPES[self._options["kv_cache"]],
            "type_v": _CACHE_TYPES[self._options["kv_cache"]],
            "logits_all": False,
            "verbose": False,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        script = Path(__file__).with_name("workers") / "llama_cpp_server.py"
        command = self.python.command(str(script), str(told), *words)
        return ServerLaunch(
            command,
            ON_THE_CPU,
            refuses=NO_PARSERS | {"stream_options"},
            health="/docs",  # its endpoints below /v1 answer when no request is running
            model=_MODEL,
            key_variable=_KEY,
            context=context,
            count=counter_of(directory, template),
            files=files,
        )
