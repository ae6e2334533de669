"""One request to AWS as data: built, checked, shown by a dry run and sent in the same form.

botocore checks required members, types and minima before it sends. It has the patterns, maxima and enumerations of
every parameter too and leaves them to the service; here they are checked as well, so that a wrong name is found before
an upload of hours and not after it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
from botocore.validate import ParamValidator
from s3transfer.utils import ReadFileChunk  # type: ignore[import-untyped]

from qat.errors import InputError


@dataclass(frozen=True)
class Section:
    """Bytes of a file as the body of a call: read from disk while they are sent, afresh at each attempt."""

    path: Path
    start: int
    length: int

    def open(self) -> Any:
        """A file object of these bytes alone."""
        return ReadFileChunk.from_filename(str(self.path), self.start, self.length)

    def __str__(self) -> str:
        return f"<{self.length} bytes of {self.path.name} from {self.start}>"


@dataclass(frozen=True)
class Call:
    """One request.

    Attributes:
        service: as boto3 names it.
        operation: as the service's model names it.
        parameters: of the request; a :class:`Section` stands for bytes on disk.

    Example:
        >>> call = Call("bedrock", "GetImportedModel", {"modelIdentifier": "tiny-llama"})
        >>> call.check()
        >>> print(call)
        {"service": "bedrock", "operation": "GetImportedModel", "parameters": {"modelIdentifier": "tiny-llama"}}
    """

    service: str
    operation: str
    parameters: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Service and operation, as an IAM policy writes an action."""
        return f"{self.service}:{self.operation}"

    def check(self) -> None:
        """Return if the service's own model takes the parameters.

        Raises:
            InputError: naming every parameter that it does not take.
        """
        shape = service_model(self.service).operation_model(self.operation).input_shape
        plain = {name: b"" if isinstance(value, Section) else value for name, value in self.parameters.items()}
        if shape is None:
            assert not plain, f"{self.name} takes no parameters"
            return
        report = ParamValidator().validate(plain, shape)
        problems = report.generate_report().splitlines() if report.has_errors() else [*_limits(plain, shape, "")]
        if problems:
            raise InputError(f"{self.name} does not take these parameters: {'; '.join(problems)}")

    def __str__(self) -> str:
        """One line of JSON; bytes of a body that is JSON are shown as such."""
        call = {"service": self.service, "operation": self.operation, "parameters": dict(self.parameters)}
        return json.dumps(call, default=_shown)


@cache
def service_model(service: str) -> Any:
    """botocore's own description of a service."""
    return botocore.session.get_session().get_service_model(service)


def _shown(value: Any) -> Any:
    if not isinstance(value, bytes):
        return str(value)
    try:
        return json.loads(value)
    except ValueError:
        return value.decode(errors="replace")


def _limits(value: Any, shape: Any, path: str) -> Iterator[str]:
    """What botocore's validation leaves out, of ``value`` and everything in it."""
    if shape.type_name == "structure":
        for name, inner in value.items():
            yield from _limits(inner, shape.members[name], f"{path}.{name}" if path else name)
        return
    if shape.type_name == "list":
        yield from _size(len(value), shape, path, "entries")
        for index, inner in enumerate(value):
            yield from _limits(inner, shape.member, f"{path}[{index}]")
    elif shape.type_name == "map":
        yield from _size(len(value), shape, path, "entries")
        for key, inner in value.items():
            yield from _limits(key, shape.key, f"{path} key")
            yield from _limits(inner, shape.value, f"{path}[{key}]")
    elif shape.type_name == "string":
        yield from _text(value, shape, path)
    elif shape.type_name in ("integer", "long", "float", "double"):
        yield from _size(value, shape, path, "")


def _text(value: str, shape: Any, path: str) -> Iterator[str]:
    wrong = [*_size(len(value), shape, path, "characters")]
    yield from wrong
    if shape.enum and value not in shape.enum:
        yield f"{path} '{value}' is none of {', '.join(shape.enum[:8])}{', ...' if len(shape.enum) > 8 else ''}"
    pattern = _pattern(shape.metadata.get("pattern", ""))
    if pattern is not None and not wrong and not pattern.fullmatch(value):
        yield f"{path} '{value}' does not match {pattern.pattern}"


@cache
def _pattern(text: str) -> re.Pattern[str] | None:
    r"""None without one, or of Java's classes (``\p{L}``), which Python does not have: the service checks those."""
    try:
        return re.compile(text) if text else None
    except re.error:
        return None


def _size(size: float, shape: Any, path: str, unit: str) -> Iterator[str]:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if (least is not None and size < least) or (most is not None and size > most):
        allowed = f"{least or 0} to {most}" if most is not None else f"at least {least}"
        yield f"{path} has {size} {unit}, allowed are {allowed}" if unit else f"{path} is {size}, allowed are {allowed}"
