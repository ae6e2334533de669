"""How an engine's own server is started: what an engine that can serve tells, and the gateway is told."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qat.errors import InputError

ENGINES = ("transformers", "llama_cpp", "vllm")
"""Those that have a server."""

LOOPBACK = "127.0.0.1"

NO_PARSERS = frozenset({"tools", "tool_choice", "parallel_tool_calls", "reasoning_effort", "include_reasoning"})
"""Fields of a request that ask for more than text: it takes a parser for each family of models to answer them."""

PromptCounter = Callable[[Sequence[Mapping[str, Any]]], int]
"""Tokens of the prompt that messages make; raises InputError where the chat template makes none of them."""

_OWN_TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")


@dataclass(frozen=True)
class ServerLaunch:
    """An OpenAI-compatible server of an engine, with its endpoints below ``/v1``.

    Attributes:
        command: the program, told to listen on a port of the loopback address.
        environment: variables besides those of this process.
        refuses: fields of a chat request that the server does not take, or ignores.
        health: path that answers 200 once the model is loaded.
        model: what the server wants as ``model`` in a request.
        key_variable: environment variable in which the server takes an API key; None: it takes none.
        context: tokens that prompt and answer may have together; None: not known.
        count: tokens of a prompt, as the server makes it of messages.
        files: what the server reads besides the export; goes with this object.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    refuses: frozenset[str] = frozenset()
    health: str = "/health"
    model: str = "default"
    key_variable: str | None = None
    context: int | None = None
    count: PromptCounter | None = field(default=None, compare=False, repr=False)
    files: TemporaryDirectory[str] | None = field(default=None, compare=False, repr=False)


def no_server(description: str) -> InputError:
    """What an engine raises that has none."""
    return InputError(f"{description} has no server that qat starts; serve with engine={', '.join(ENGINES)}")


def scratch() -> TemporaryDirectory[str]:
    """A folder for :attr:`ServerLaunch.files`."""
    return TemporaryDirectory(prefix="qat-serve-")


def linked(directory: Path, template: str | None, into: Path) -> Path:
    """A Hugging Face folder as transformers' server needs it: links to the export's files, and these two changed.

    ``generation_config.json`` keeps the special tokens alone and allows sampling: transformers' server never turns it
    on, so that a request's temperature would do nothing, and would apply the model's own top_k behind its back.

    Args:
        directory: the export.
        template: chat template in place of its own; None: its own.
        into: an empty folder, below which the new one is made.
    """
    folder = into / "model"
    folder.mkdir()
    for path in sorted(directory.iterdir()):
        if path.name != "generation_config.json" and not (template is not None and path.name in _OWN_TEMPLATES):
            (folder / path.name).symlink_to(path.resolve())
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    settings = {name: value for name, value in _generation(directory).items() if name.endswith("_token_id")}
    settings |= {"do_sample": True, "top_k": 0}
    (folder / "generation_config.json").write_text(json.dumps(settings) + "\n", encoding="utf-8")
    return folder


def _generation(directory: Path) -> dict[str, object]:
    """Where transformers takes the stop tokens from: ``generation_config.json``, else ``config.json``."""
    path = directory / "generation_config.json"
    if not path.is_file():
        path = directory / "config.json"
    read: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return read


def check_temporary_path() -> None:
    """Return if temporary folders have a path without ``@``, behind which transformers' server reads a revision.

    Raises:
        InputError: theirs has one.
    """
    if "@" in (folder := tempfile.gettempdir()):
        raise InputError(
            f"transformers' server takes no path with an @, and temporary files go to {folder}; set TMPDIR"
        )
