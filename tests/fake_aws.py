"""AWS on the loopback for tests: every request is read and checked by botocore's own model of its service.

A test scripts the answers by operation; the last one of a script is given again. What came is in ``seen``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import botocore.session
from botocore.validate import ParamValidator

SERVICES = {
    "bedrock": ("bedrock", "bedrock-runtime"),
    "sagemaker": ("sagemaker", "sagemaker-runtime"),
    "iam": ("iam",),
    "sts": ("sts",),
}
"""Name in a signature -> models that it may be of."""


@dataclass(frozen=True)
class Refuse:
    """An error with AWS's code."""

    code: str
    message: str = ""
    status: int = 400


class Drop:
    """Close the connection without an answer."""


Answer = dict[str, Any] | bytes | Refuse | Drop | Callable[[dict[str, Any]], Any]


@dataclass
class FakeAws:
    """See the module."""

    script: dict[str, list[Answer]] = field(default_factory=dict)
    seen: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def __enter__(self) -> FakeAws:
        fake = self

        class Handler(_Handler):
            aws = fake

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def operations(self) -> list[str]:
        return [name for name, _ in self.seen]

    def of(self, operation: str) -> list[dict[str, Any]]:
        return [parameters for name, parameters in self.seen if name == operation]

    def answer(self, operation: str, parameters: dict[str, Any]) -> Any:
        self.seen.append((operation, parameters))
        answers = self.script.get(operation)
        if not answers:
            self.faults.append(f"{operation} was not expected")
            return Refuse("ValidationException", f"{operation} was not expected")
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return found(parameters) if callable(found) and not isinstance(found, (Refuse, Drop)) else found


class _Handler(BaseHTTPRequestHandler):
    aws: FakeAws
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: two would wait for each other

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        signed = re.search(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/aws4_request", self.headers.get("Authorization", ""))
        if signed is None:
            self.aws.faults.append("an unsigned request")
            return self._send(403, b"", {})
        for name in SERVICES[signed[1]]:
            model = _model(name)
            if (found := self._read(model, body)) is not None:
                return self._reply(model, *found)
        self.aws.faults.append(f"no operation for {self.command} {self.path}")
        return self._send(404, b"{}", {})

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def _read(self, model: Any, body: bytes) -> tuple[Any, dict[str, Any]] | None:
        if model.protocol == "query":
            form = {key: values[0] for key, values in parse_qs(body.decode()).items()}
            operation = model.operation_model(form.pop("Action"))
            form.pop("Version")
            flat = {key: value for key, value in form.items() if "." not in key}
            return operation, flat
        if model.protocol == "json":
            prefix, _, name = self.headers.get("X-Amz-Target", "").partition(".")
            if prefix != model.metadata["targetPrefix"]:
                return None
            return model.operation_model(name), json.loads(body)
        for name in model.operation_names:
            operation = model.operation_model(name)
            template = urlsplit(operation.http["requestUri"]).path
            pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(template))
            found = re.fullmatch(pattern, urlsplit(self.path).path)
            if found is not None and operation.http["method"] == self.command:
                return operation, self._rest(operation, found.groupdict(), body)
        return None

    def _rest(self, operation: Any, path: dict[str, str], body: bytes) -> dict[str, Any]:
        shape, parameters = operation.input_shape, {}
        for name, member in shape.members.items():
            where = member.serialization.get("location")
            wire = member.serialization.get("name", name)
            if where == "uri":
                parameters[name] = unquote(path[wire])
            elif where == "header" and wire in self.headers:
                parameters[name] = self.headers[wire]
        payload = shape.serialization.get("payload")
        if payload is not None:
            parameters[payload] = body
        elif body:
            parameters |= json.loads(body)
        return parameters

    def _reply(self, model: Any, operation: Any, parameters: dict[str, Any]) -> None:
        if operation.input_shape is not None:
            report = ParamValidator().validate(parameters, operation.input_shape)
            problems = [report.generate_report()] if report.has_errors() else []
            for name, value in parameters.items():
                pattern = operation.input_shape.members[name].metadata.get("pattern")
                if isinstance(value, str) and pattern and "\\p" not in pattern and not re.fullmatch(pattern, value):
                    problems.append(f"{name} {value}")
            if problems:
                self.aws.faults.append(f"{operation.name}: {problems}")
                return self._send(*_error(model, Refuse("ValidationException", str(problems))))
        answer = self.aws.answer(operation.name, parameters)
        if isinstance(answer, Drop):
            self.close_connection = True
            return self.connection.close()
        if isinstance(answer, Refuse):
            return self._send(*_error(model, answer))
        if isinstance(answer, bytes):
            return self._send(200, answer, {"Content-Type": "application/json"})
        if model.protocol == "query":
            name = operation.name
            text = f"<{name}Response><{name}Result>{_xml(answer)}</{name}Result></{name}Response>"
            return self._send(200, text.encode(), {"Content-Type": "text/xml"})
        return self._send(operation.http.get("responseCode", 200), json.dumps(answer).encode(), {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@cache
def _model(service: str) -> Any:
    return botocore.session.get_session().get_service_model(service)


def _error(model: Any, refusal: Refuse) -> tuple[int, bytes, dict[str, str]]:
    if model.protocol == "query":
        text = (
            f"<ErrorResponse><Error>{_xml({'Code': refusal.code, 'Message': refusal.message})}</Error></ErrorResponse>"
        )
        return refusal.status, text.encode(), {"Content-Type": "text/xml"}
    body = {"__type": refusal.code, "message": refusal.message}
    return refusal.status, json.dumps(body).encode(), {"x-amzn-ErrorType": refusal.code}


def _xml(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(f"<{name}>{_xml(inner)}</{name}>" for name, inner in value.items())
    return escape(str(value))
