"""The chat template that a server renders: the export's own, or one that its user gives, alike for every engine.

A base model has no template, and engines differ in what they do then: some refuse, some take Llama 2's. Here the user
says what he wants: ``plain``, or a file in Jinja.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from qat.engines.serving import PromptCounter
from qat.errors import InputError
from qat.models.tokenizer import load_tokenizer

PLAIN = "plain"
_MESSAGES = (
    "{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] or [] -%}{{ part['text'] }}{%- endfor -%}"
    "{%- endif -%}"
    "{%- if not loop.last -%}{{ '\\n' }}{%- endif -%}"
    "{%- endfor -%}"
)


@dataclass(frozen=True)
class ChatTokens:
    """What an export says about chats.

    Attributes:
        template: its own template, in Jinja.
        bos: text of the token that begins a sequence; empty: none.
        eos: text of the token that ends one; empty: none.
        adds_bos: whether its tokenizer begins a plain text with ``bos``.
        context: the model's longest sequence in tokens, where the same file says so.
    """

    template: str | None
    bos: str = ""
    eos: str = ""
    adds_bos: bool = False
    context: int | None = None


def of_folder(directory: Path) -> ChatTokens:
    """Of a Hugging Face folder.

    Raises:
        InputError: it has no tokenizer.
    """
    tokenizer = load_tokenizer(directory)
    bos, eos, own = tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template
    begins = bool(bos) and list(tokenizer("a")["input_ids"])[:1] == [tokenizer.bos_token_id]
    # Of several named templates servers take the one called default.
    template = own.get("default") if isinstance(own, dict) else own
    return ChatTokens(template, str(bos or ""), str(eos or ""), begins)


def of_gguf(path: Path) -> ChatTokens:
    """Of a GGUF file; nothing but its metadata is read.

    Raises:
        InputError: it has no tokenizer.
    """
    from gguf import GGUFReader  # takes longer to import than everything else here

    fields = GGUFReader(path).fields
    if "tokenizer.ggml.tokens" not in fields:
        raise InputError(f"{path} has no tokenizer, so it cannot answer text; export it from a run with a tokenizer")

    def value(name: str) -> object:
        field = fields.get(f"tokenizer.{name}")
        return None if field is None else field.contents()

    def text(name: str) -> str:
        token = value(f"ggml.{name}_token_id")
        return str(fields["tokenizer.ggml.tokens"].contents(token)) if isinstance(token, int) else ""

    own, bos = value("chat_template"), text("bos")
    context = next((int(fields[name].contents()) for name in fields if name.endswith(".context_length")), None)
    return ChatTokens(
        template=None if own is None else str(own),
        bos=bos,
        eos=text("eos"),
        adds_bos=bool(bos and value("ggml.add_bos_token")),
        context=context,
    )


def template_of(given: str | None, chat: ChatTokens, directory: Path) -> str | None:
    """What a server must be given in place of the export's own template; None: nothing.

    Args:
        given: ``plain``: the texts of the messages, one a line; else a file in Jinja; None: the export's own.
        chat: what the export says.
        directory: the export, for messages.

    Raises:
        InputError: neither the export nor its user has a template, or the file cannot be used.

    Example:
        >>> template_of(None, ChatTokens(template="{{ messages }}"), Path("exports/gguf")) is None
        True
    """
    if given is None:
        if chat.template is None:
            raise InputError(
                f"{directory} has no chat template, as base models do not; say how messages become a prompt with "
                f"chat_template={PLAIN} (their texts, one a line) or chat_template=<file in Jinja>"
            )
        return None
    return _plain(chat) if given == PLAIN else _from_file(Path(given))


def counter_of(directory: Path, template: str | None) -> PromptCounter:
    """Counts the tokens of prompts as servers make them: they add none to what the template renders.

    Args:
        directory: the export, whose tokenizer counts.
        template: what :func:`template_of` gave.

    Raises:
        InputError: it has no tokenizer.
    """
    tokenizer: Any = load_tokenizer(directory)
    alone = threading.Lock()  # a tokenizer's settings are set and used in two steps

    def count(messages: Sequence[Mapping[str, Any]]) -> int:
        try:
            with alone:
                prompt = tokenizer.apply_chat_template(
                    list(messages), chat_template=template, add_generation_prompt=True, tokenize=False
                )
                return len(tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"])
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise InputError(f"the chat template makes no prompt of these messages: {error}") from error

    return count


def _plain(chat: ChatTokens) -> str:
    """Servers add no token to what a template renders, so it begins as the tokenizer itself would begin a text."""
    return ("{{- bos_token -}}" if chat.adds_bos else "") + _MESSAGES


def _from_file(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputError(f"chat_template={path} cannot be read ({reason}); give a file in Jinja, or {PLAIN}") from error
    try:
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    except jinja2.TemplateSyntaxError as error:
        if "generation" not in str(error):  # a tag of transformers' own
            raise InputError(f"chat_template={path} is not Jinja, in line {error.lineno}: {error.message}") from error
    return text
