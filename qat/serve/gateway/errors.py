"""Errors as Groq words them: ``{"error": {"message", "type", "code"?}}`` (console.groq.com/docs/errors)."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response

INVALID = "invalid_request_error"
TOO_MANY = "rate_limit_exceeded"
INTERNAL = "internal_server_error"
NO_RETRY = {"x-should-retry": "false"}
"""Header by which the SDKs know that trying again brings nothing; they would, after every 5xx."""


class ApiError(Exception):
    """What a client gets in place of an answer.

    Args:
        status: HTTP status.
        message: what is wrong and what is allowed.
        kind: ``type`` of the error object.
        code: its ``code``, where it has one.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = INVALID,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, dict[str, str]]:
        """The error object."""
        error = {"message": self.message, "type": self.kind}
        return {"error": error if self.code is None else error | {"code": self.code}}

    def response(self) -> Response:
        """The error as a response."""
        return json_response(self.body, self.status, self.headers)


def bad_request(message: str, code: str | None = None) -> ApiError:
    """400: the request is not one of Groq's, or not one that this engine can answer."""
    return ApiError(400, message, code=code)


def json_response(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """``body`` as JSON."""
    return Response(dumps(body), status, dict(headers or {}), media_type="application/json")


def dumps(body: object) -> bytes:
    """JSON in UTF-8 without spaces."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
