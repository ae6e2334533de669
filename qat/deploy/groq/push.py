"""The way of an adapter to GroqCloud and back: the file, its registration, and what was made in ``pushed.json``."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import groq
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from rich.console import Console

from qat.deploy.pushed import PUSHED, write_whole
from qat.deploy.rehearsal import rehearse
from qat.errors import InputError, RunError

KEY = "GROQ_API_KEY"
_FILES = "/openai/v1/files"
_TUNINGS = "/v1/fine_tunings"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*")
"""An id becomes a part of the path of a later request, so it must not be one itself."""
_PURPOSE: Any = "fine_tuning"  # the SDK's annotation has `batch` only; Groq's page on LoRA has this one

Id = Annotated[str, StringConstraints(pattern=f"^{_ID.pattern}$")]


class Pushed(BaseModel):
    """What a push made.

    Attributes:
        base_url: where.
        sha256: of the zip.
        file_id: of the uploaded zip.
        tuning_id: of the registration; None before it.
        name: under which the adapter is registered.
        base_model: for which it is.
        model: what to ask for in a request; None before it.
    """

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1] = 1
    target: Literal["groq"] = "groq"
    base_url: str
    sha256: str
    file_id: Id
    tuning_id: Id | None = None
    name: str | None = None
    base_model: str | None = None
    model: str | None = None


def push(
    folder: Path, archive: bytes, *, base_url: str, base_model: str, name: str, log: Console, dry_run: bool
) -> None:
    """Upload ``archive`` and register it; what ``pushed.json`` in ``folder`` says is done is not done again.

    Raises:
        InputError: no API key; or another adapter was pushed from there.
        RunError: Groq refused, in its own words.
    """
    digest = hashlib.sha256(archive).hexdigest()
    pushed = _read(folder)
    if pushed is not None and (pushed.sha256, pushed.base_url) != (digest, base_url):
        raise InputError(f"{folder / PUSHED} tells of another adapter or address; remove that first with action=delete")
    if pushed is not None and pushed.tuning_id and (pushed.name, pushed.base_model) != (name, base_model):
        raise InputError(
            f"the adapter is registered as {pushed.name} of {pushed.base_model}, not as {name} of {base_model}; "
            "remove that first with action=delete"
        )
    if dry_run:
        _rehearse(pushed, len(archive), base_url, base_model, name)
        return
    client = _client(base_url)
    if pushed is None:
        made = _asked(lambda: client.files.create(file=("adapter.zip", archive, "application/zip"), purpose=_PURPOSE))
        pushed = Pushed(base_url=base_url, sha256=digest, file_id=_id(made.id, "file"))
        _write(folder, pushed)
        log.print(f"uploaded as {pushed.file_id}", markup=False, soft_wrap=True)
    if pushed.tuning_id is None:
        wanted = _registration(pushed.file_id, name, base_model)
        answer: Any = _asked(lambda: client.post(_TUNINGS, body=wanted, cast_to=object))
        data = answer.get("data", answer) if isinstance(answer, dict) else {}
        pushed.tuning_id, pushed.model = _id(data.get("id"), "registration"), data.get("fine_tuned_model")
        pushed.name, pushed.base_model = name, base_model
        _write(folder, pushed)
    model = pushed.model or "what Groq's console calls it"
    log.print(f"registered as {pushed.tuning_id}; ask for model={model}", markup=False, soft_wrap=True)


def _rehearse(pushed: Pushed | None, size: int, base_url: str, base_model: str, name: str) -> None:
    """Print the requests that a push would send."""
    if pushed is None:
        form = {"purpose": _PURPOSE, "file": f"<{size} bytes of adapter.zip>"}
        _show("POST", f"{base_url}{_FILES}", form)
    if pushed is None or pushed.tuning_id is None:
        file_id = "<id of the file>" if pushed is None else pushed.file_id
        _show("POST", f"{base_url}{_TUNINGS}", _registration(file_id, name, base_model))


def _show(method: str, url: str, body: dict[str, str] | None = None) -> None:
    rehearse(json.dumps({"method": method, "url": url, **({} if body is None else {"body": body})}))


def delete(folder: Path, *, base_url: str, log: Console, dry_run: bool) -> None:
    """Remove the registration and the file that ``pushed.json`` names.

    Raises:
        InputError: nothing was pushed from ``folder``, or not to ``base_url``; or no API key.
        RunError: Groq refused, in its own words.
    """
    pushed = _read(folder)
    if pushed is None:
        raise InputError(f"{folder} has no {PUSHED}: nothing was pushed from there")
    if pushed.base_url != base_url:  # the key goes where the user says, not where a file in a folder does
        raise InputError(f"{folder} was pushed to another address; delete there: target.base_url={pushed.base_url}")
    paths = [f"{_TUNINGS}/{pushed.tuning_id}"] if pushed.tuning_id is not None else []
    paths.append(f"{_FILES}/{pushed.file_id}")
    client = None if dry_run else _client(pushed.base_url)
    for path in paths:
        if client is None:
            _show("DELETE", f"{pushed.base_url}{path}")
        else:
            log.print(f"DELETE {pushed.base_url}{path}", markup=False, soft_wrap=True)
            _gone(client, path)
    if client is not None:
        (folder / PUSHED).unlink()


def _gone(client: groq.Groq, path: str) -> None:
    """Delete; what is not there any more is as good."""

    def ask() -> object:
        try:
            return client.delete(path, cast_to=object)
        except groq.NotFoundError:
            return None

    _asked(ask)


def _registration(file_id: str, name: str, base_model: str) -> dict[str, str]:
    return {"input_file_id": file_id, "name": name, "type": "lora", "base_model": base_model}


def _client(base_url: str) -> groq.Groq:
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise InputError(f"GroqCloud needs an API key: set the environment variable {KEY}")
    # No retries: one after a lost answer would make a second file. A second push goes on where this one ended.
    if not (key.isascii() and key.isprintable()) or " " in key:  # what a header does not take, httpx would quote
        raise InputError(f"{KEY} holds a character that no key has; copy it again from console.groq.com/keys")
    return groq.Groq(api_key=key, base_url=base_url, max_retries=0)


def _asked(call: Any) -> Any:
    """The answer; errors in Groq's words, without the request and its key."""
    try:
        return call()
    except groq.APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        said = body.get("error", body)
        message = said.get("message", error.message) if isinstance(said, dict) else error.message
        raise RunError(f"Groq refused with status {error.status_code}: {_clean(message)}") from None
    except groq.APIConnectionError as error:
        why = error.__cause__ or error
        raise RunError(f"Groq cannot be reached: {_clean(why)}; try again to go on") from None
    except groq.GroqError as error:
        raise RunError(f"the groq SDK failed: {_clean(error)}") from None


def _clean(told: object) -> str:
    """In one line, without the key."""
    text, key = " ".join(str(told).split()), os.environ.get(KEY, "").strip()
    return text.replace(key, "***") if key else text


def _id(value: object, what: str) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise RunError(f"Groq's answer has no id of the {what}; look in Groq's console for what was made")
    return value


def _read(folder: Path) -> Pushed | None:
    path = folder / PUSHED
    if not path.is_file():
        return None
    try:
        return Pushed.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, ValueError) as error:
        raise InputError(f"{path} is damaged or of another target: {str(error).splitlines()[0]}") from None


def _write(folder: Path, pushed: Pushed) -> None:
    write_whole(folder / PUSHED, pushed.model_dump_json(indent=2) + "\n")
