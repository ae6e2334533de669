"""Groq's dialect: what it refuses, and what the engine gets in place of the rest.

Sources: console.groq.com/docs/openai and the types of the groq SDK.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qat.errors import nearest
from qat.serve.gateway.errors import ApiError, bad_request
from qat.serve.gateway.request import ChatRequest

_UNSUPPORTED = ("logprobs", "top_logprobs", "logit_bias")
_COMPOUND = (
    "citation_options", "compound_custom", "documents", "exclude_domains", "include_domains", "search_settings",
)  # fmt: skip
_DROPPED = ("disable_tool_validation", "metadata", "n", "reasoning_format", "service_tier", "store", "user")
"""Change no answer: the gateway checks no tool calls and keeps nothing, and has one tier."""

_DEFAULTS = {"temperature": 1.0, "top_p": 1.0}
"""Groq's. Engines have others, or the model's own, which a program written for Groq does not expect."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "include_reasoning": (True,),
    "parallel_tool_calls": (True,),
    "presence_penalty": (0,),
    "reasoning_effort": ("default",),
    "response_format": ({"type": "text"},),
    "temperature": (1,),
    "tool_choice": ("auto",),
    "tools": ([],),
    "top_p": (1,),
}
"""Values that ask for nothing, so that an engine without the field answers alike."""


def check_model(name: str, served: Sequence[str]) -> None:
    """Return if ``name`` is served.

    Raises:
        ApiError: 404, in Groq's words and with the names that are.
    """
    if name not in served:
        raise ApiError(
            404,
            f"The model `{name}` does not exist or you do not have access to it{nearest(name, served)}; "
            f"served here: {', '.join(served)}",
            code="model_not_found",
        )


def refuse(request: ChatRequest) -> None:
    """Return if Groq would take the request, and if it asks for nothing that only Groq has.

    Raises:
        ApiError: 400 that names the field.
    """
    for name in _UNSUPPORTED:
        if getattr(request, name) is not None:
            raise bad_request(f"property '{name}' is unsupported")
    if request.n not in (None, 1):
        raise bad_request(f"'n': {request.n} is unsupported; only 1 is")
    for index, message in enumerate(request.messages):
        if message.name is not None:
            raise bad_request(f"property 'messages.{index}.name' is unsupported")
    for name in _COMPOUND:
        if getattr(request, name) is not None:
            raise bad_request(f"property '{name}' belongs to Groq's Compound systems, which are not served here")
    for name, instead in (("functions", "tools"), ("function_call", "tool_choice")):
        if getattr(request, name) is not None:
            raise bad_request(f"property '{name}' is deprecated and not served here; use '{instead}'")
    if request.reasoning_format is not None and request.include_reasoning is not None:
        raise bad_request("'reasoning_format' and 'include_reasoning' exclude each other; give one")
    if request.reasoning_format not in (None, "raw"):
        raise bad_request(f"'reasoning_format': {request.reasoning_format} is not served here; only raw is")
    limits = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(limits) > 1:
        raise bad_request("'max_tokens' and 'max_completion_tokens' differ; give the latter")


def engine_request(request: ChatRequest, model: str, refuses: frozenset[str]) -> dict[str, Any]:
    """What the engine's server is sent, which always asks for a stream: engines go on with an answer that is not
    streamed when its client has left.

    Its temperature stays 0 where the request's is: Groq makes it 1e-8, by which it means the likeliest token, and that
    is what engines do at 0; at 1e-8 they may divide by it, or, as vLLM does, sample at a temperature of 0.01.

    Args:
        request: one that :func:`refuse` took.
        model: the server's name for the model.
        refuses: fields that the server does not take.

    Raises:
        ApiError: 400: the answer depends on one of ``refuses``, or on an image.
    """
    body = request.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=set(_DROPPED))
    if "max_completion_tokens" in body:
        body["max_tokens"] = body.pop("max_completion_tokens")  # the older name, which every server knows
    _settle_tools(body, refuses)
    for index, message in enumerate(body["messages"]):
        if isinstance(message.get("content"), list):
            message["content"] = _text(message["content"], index)
    body = {**_DEFAULTS, **body, "model": model, "stream": True, "stream_options": {"include_usage": True}}
    for name in refuses & body.keys():
        if name != "stream_options" and body[name] not in _NEUTRAL.get(name, ()):
            raise bad_request(f"property '{name}' is unsupported by the engine behind this gateway")
        del body[name]
    return body


def _text(parts: list[dict[str, Any]], index: int) -> str:
    """The text of a message that comes in parts; servers differ in what they put between them.

    Raises:
        ApiError: 400: one is an image, which servers leave out without a word where the model takes none.
    """
    if any(part["type"] != "text" for part in parts):
        raise bad_request(f"'messages.{index}.content' has an image; the model behind this gateway reads text only")
    return "".join(part["text"] for part in parts)


def _settle_tools(body: dict[str, Any], refuses: frozenset[str]) -> None:
    """Leave out what concerns tools where none can be called.

    Raises:
        ApiError: 400: a call is asked for, of no tool.
    """
    choice = body.get("tool_choice")
    if body.get("tools"):
        if choice != "none" or not refuses & {"tools", "tool_choice"}:
            return
    elif choice not in (None, "none", "auto"):
        raise bad_request("'tool_choice' asks for a call; give 'tools'")
    for name in ("tools", "tool_choice", "parallel_tool_calls"):
        body.pop(name, None)
