"""A chat request of Groq's dialect: its fields and their types, as the groq SDK declares them.

``groq.types.chat.completion_create_params`` is the declaration. The SDK checks nothing of it before it sends, so this
is where wrong types are found. Fields that the declaration lacks are refused, as Groq does.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qat.errors import nearest
from qat.serve.gateway.errors import ApiError, bad_request

_MAX_TOLD = 3


class Strict(BaseModel):
    """No unknown field, and no number in place of a text."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(Strict):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImageUrl(Strict):
    """Where an image is."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Strict):
    """An image, for models that see."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class CalledFunction(Strict):
    """A function's name, and its arguments as JSON in a text."""

    name: str
    arguments: str


class ToolCall(Strict):
    """A call that the model made in an earlier turn."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class SystemMessage(Strict):
    """Instructions."""

    role: Literal["system", "developer"]
    content: str | list[TextPart]
    name: str | None = None


class UserMessage(Strict):
    """What the user says."""

    role: Literal["user"]
    content: str | list[Part]
    name: str | None = None


class AssistantMessage(Strict):
    """What the model said; the SDKs send its answer back with the fields that were null in it."""

    role: Literal["assistant"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: None = None
    annotations: None = None
    executed_tools: None = None
    refusal: None = None
    audio: None = None


class ToolMessage(Strict):
    """What a tool answered."""

    role: Literal["tool"]
    content: str | list[Part]
    tool_call_id: str
    name: str | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class Function(Strict):
    """A function that the model may call."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool; Groq's own (browser_search, code_interpreter) are not here."""

    type: Literal["function"]
    function: Function


class NamedFunction(Strict):
    """The name of a function."""

    name: str


class NamedTool(Strict):
    """The tool to call."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Strict):
    """The form of an answer."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class PlainFormat(Strict):
    """Text, or any JSON object."""

    type: Literal["text", "json_object"]


class SchemaFormat(Strict):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class StreamOptions(Strict):
    """``include_usage``: a last chunk with the usage, as OpenAI does."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(Strict):
    """Body of ``POST /openai/v1/chat/completions``; ``None`` everywhere is "not given"."""

    messages: list[Message] = Field(min_length=1)
    model: str
    disable_tool_validation: bool | None = None
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    include_reasoning: bool | None = None
    logit_bias: Any = None
    logprobs: Any = None
    max_completion_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    metadata: dict[str, str] | None = None
    n: int | None = None
    parallel_tool_calls: bool | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    reasoning_effort: Literal["none", "default", "low", "medium", "high"] | None = None
    reasoning_format: Literal["hidden", "raw", "parsed"] | None = None
    response_format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None
    seed: int | None = None
    service_tier: Literal["auto", "on_demand", "flex", "performance"] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    top_logprobs: Any = None
    top_p: float | None = Field(default=None, ge=0, le=1)
    user: str | None = None
    # Of Groq's Compound systems, and OpenAI's older way to call functions: not served, see groq.refuse.
    citation_options: Any = None
    compound_custom: Any = None
    documents: Any = None
    exclude_domains: Any = None
    function_call: Any = None
    functions: Any = None
    include_domains: Any = None
    search_settings: Any = None


def parse(body: bytes) -> ChatRequest:
    """The request in ``body``.

    Raises:
        ApiError: 400: it is no JSON, or not of the declared types; the message names the places.
    """
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise bad_request("the body must be a JSON object")
    try:
        return ChatRequest.model_validate(value)
    except ValidationError as error:
        raise _refusal(error) from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _refusal(error: ValidationError) -> ApiError:
    details = error.errors(include_url=False, include_context=False)
    told = [_told(detail["loc"], detail["type"], detail["msg"]) for detail in details[:_MAX_TOLD]]
    if len(details) > _MAX_TOLD:
        told.append(f"and {len(details) - _MAX_TOLD} more")
    return bad_request("; ".join(told))


def _told(place: tuple[int | str, ...], kind: str, message: str) -> str:
    """Groq's words for an unknown field; else pydantic's, without the value, which may be long and private."""
    where = ".".join(map(str, place))
    if kind == "extra_forbidden":
        close = nearest(str(place[0]), ChatRequest.model_fields) if len(place) == 1 else ""
        return f"property '{where}' is unsupported{close}"
    if kind == "missing":
        return f"property '{where}' is missing"
    return f"'{where}': {message[:1].lower()}{message[1:]}"
