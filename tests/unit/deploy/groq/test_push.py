"""The real groq SDK against a local fake of the documented endpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from qat.deploy.groq.adapter import ARCHIVE, pack, read
from qat.deploy.groq.target import Groq
from qat.deploy.pushed import PUSHED, alone
from qat.errors import InputError, RunError

UPLOAD, REGISTER = "POST /openai/v1/files", "POST /v1/fine_tunings"


@pytest.fixture
def folder(adapter: Callable[..., Path], tmp_path: Path) -> Path:
    """What prepare makes."""
    made = tmp_path / "groq"
    made.mkdir()
    (made / ARCHIVE).write_bytes(pack(read(adapter())))
    return made


def run(action: str, folder: Path, cloud: Any, dry_run: bool = False, **options: Any) -> str:
    """What the action prints."""
    given = {"base_model": "base-1", "adapter_name": "mine"} | options
    target = Groq(route="lora", base_url=cloud.url, **given)
    said = StringIO()
    getattr(target, action)(folder, Console(file=said, width=300), dry_run)
    assert "gsk_" not in said.getvalue()
    return said.getvalue()


def test_a_push_uploads_and_registers(folder: Path, groq_cloud: Any) -> None:
    said = run("push", folder, groq_cloud)
    assert groq_cloud.calls == [UPLOAD, REGISTER]
    upload, registration = (body for _, _, body in groq_cloud.asked)
    assert b'name="purpose"\r\n\r\nfine_tuning\r\n' in upload
    assert b'name="file"; filename="adapter.zip"' in upload
    assert (folder / ARCHIVE).read_bytes() in upload
    assert json.loads(registration) == {
        "input_file_id": "file_1",
        "name": "mine",
        "type": "lora",
        "base_model": "base-1",
    }
    assert groq_cloud.keys == {"Bearer gsk_not_a_real_key"}
    assert "ask for model=ft:base:org/mine" in said
    pushed = json.loads((folder / PUSHED).read_text())
    assert (pushed["file_id"], pushed["tuning_id"], pushed["model"]) == ("file_1", "ft_1", "ft:base:org/mine")
    assert "gsk_" not in (folder / PUSHED).read_text()


def test_a_second_push_does_nothing(folder: Path, groq_cloud: Any) -> None:
    run("push", folder, groq_cloud)
    run("push", folder, groq_cloud)
    assert groq_cloud.calls == [UPLOAD, REGISTER]


def test_a_push_goes_on_where_the_first_one_ended(folder: Path, groq_cloud: Any) -> None:
    refusal = {"error": {"message": "LoRA is not enabled for this account", "type": "invalid_request_error"}}
    groq_cloud.refuse["/v1/fine_tunings"] = (403, refusal)
    with pytest.raises(RunError, match=r"^Groq refused with status 403: LoRA is not enabled for this account$"):
        run("push", folder, groq_cloud)
    groq_cloud.refuse.clear()
    run("push", folder, groq_cloud)
    assert groq_cloud.calls == [UPLOAD, REGISTER, REGISTER]


def test_a_failing_server_is_asked_once(folder: Path, groq_cloud: Any) -> None:
    groq_cloud.refuse["/openai/v1/files"] = (500, {"error": {"message": "internal"}})
    with pytest.raises(RunError, match="status 500: internal"):
        run("push", folder, groq_cloud)
    assert groq_cloud.calls == [UPLOAD]
    assert not (folder / PUSHED).exists()


def test_an_answer_without_an_id_is_an_error(folder: Path, groq_cloud: Any) -> None:
    groq_cloud.refuse["/v1/fine_tunings"] = (200, {"data": {}})
    with pytest.raises(RunError, match="no id of the registration"):
        run("push", folder, groq_cloud)


def test_delete_removes_what_was_made(folder: Path, groq_cloud: Any) -> None:
    run("push", folder, groq_cloud)
    groq_cloud.asked.clear()
    run("delete", folder, groq_cloud)
    assert groq_cloud.calls == ["DELETE /v1/fine_tunings/ft_1", "DELETE /openai/v1/files/file_1"]
    assert not (folder / PUSHED).exists()
    with pytest.raises(InputError, match="nothing was pushed from there"):
        run("delete", folder, groq_cloud)


def test_what_is_gone_already_is_deleted(folder: Path, groq_cloud: Any) -> None:
    run("push", folder, groq_cloud)
    groq_cloud.refuse["/v1/fine_tunings/ft_1"] = (404, {"error": {"message": "not found"}})
    run("delete", folder, groq_cloud)
    assert not (folder / PUSHED).exists()


def test_a_deletion_that_fails_can_be_tried_again(folder: Path, groq_cloud: Any) -> None:
    run("push", folder, groq_cloud)
    groq_cloud.refuse["/openai/v1/files/file_1"] = (500, {"error": {"message": "later"}})
    with pytest.raises(RunError, match="later"):
        run("delete", folder, groq_cloud)
    groq_cloud.refuse.clear()
    run("delete", folder, groq_cloud)
    assert not (folder / PUSHED).exists()


def test_a_dry_run_prints_the_calls_and_sends_none(
    folder: Path, groq_cloud: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GROQ_API_KEY")
    assert run("push", folder, groq_cloud, dry_run=True) == ""
    size = (folder / ARCHIVE).stat().st_size
    registration = {"input_file_id": "<id of the file>", "name": "mine", "type": "lora", "base_model": "base-1"}
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {
            "method": "POST",
            "url": f"{groq_cloud.url}/openai/v1/files",
            "body": {"purpose": "fine_tuning", "file": f"<{size} bytes of adapter.zip>"},
        },
        {"method": "POST", "url": f"{groq_cloud.url}/v1/fine_tunings", "body": registration},
    ]
    assert groq_cloud.calls == []
    assert not (folder / PUSHED).exists()


def test_another_adapter_is_not_taken_for_the_pushed_one(
    adapter: Callable[..., Path], folder: Path, groq_cloud: Any
) -> None:
    run("push", folder, groq_cloud)
    (folder / ARCHIVE).write_bytes(pack(read(adapter(r=16))))
    with pytest.raises(InputError, match="tells of another adapter"):
        run("push", folder, groq_cloud)


def test_what_is_missing_is_told_before_anything_is_sent(
    folder: Path, groq_cloud: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"target\.base_model="):
        run("push", folder, groq_cloud, base_model=None)
    monkeypatch.setenv("GROQ_API_KEY", " ")
    with pytest.raises(InputError, match="set the environment variable GROQ_API_KEY"):
        run("push", folder, groq_cloud)
    assert groq_cloud.calls == []


def test_nobody_there_is_one_line(folder: Path, groq_cloud: Any) -> None:
    groq_cloud.url = "http://127.0.0.1:9"
    with pytest.raises(RunError, match="Groq cannot be reached"):
        run("push", folder, groq_cloud)


@pytest.mark.parametrize("changes", [{"base_model": "base-2"}, {"adapter_name": "yours"}])
def test_another_registration_is_another_push(folder: Path, groq_cloud: Any, changes: dict[str, str]) -> None:
    run("push", folder, groq_cloud)
    with pytest.raises(InputError, match="is registered as mine of base-1, not as .*; remove that first"):
        run("push", folder, groq_cloud, **changes)


def test_the_key_goes_nowhere_but_where_the_user_says(folder: Path, groq_cloud: Any) -> None:
    run("push", folder, groq_cloud)
    pushed = json.loads((folder / PUSHED).read_text())
    (folder / PUSHED).write_text(json.dumps(pushed | {"base_url": "http://127.0.0.1:9"}))
    groq_cloud.asked.clear()
    with pytest.raises(InputError, match=r"pushed to another address; delete there: target\.base_url=http://127"):
        run("delete", folder, groq_cloud)
    assert groq_cloud.calls == []


@pytest.mark.parametrize("key", ["file_id", "tuning_id"])
def test_an_id_is_no_path(folder: Path, groq_cloud: Any, key: str) -> None:
    run("push", folder, groq_cloud)
    pushed = json.loads((folder / PUSHED).read_text())
    (folder / PUSHED).write_text(json.dumps(pushed | {key: "../models"}))
    with pytest.raises(InputError, match="is damaged or of another target"):
        run("delete", folder, groq_cloud)


@pytest.mark.parametrize("url", ["https://me:mine@host", "host", "ftp://host", "https://host?key=mine"])
def test_an_address_with_a_password_or_of_no_api(url: str) -> None:
    with pytest.raises(InputError, match=r"target\.base_url is no address") as refused:
        Groq(base_url=url)
    assert "mine" not in str(refused.value)


@pytest.mark.parametrize("key", ["gsk_ä_secret", "gsk_\x07_secret", "gsk_ _secret"])
def test_a_key_that_no_header_takes(folder: Path, groq_cloud: Any, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("GROQ_API_KEY", key)
    with pytest.raises(InputError, match="GROQ_API_KEY holds a character that no key has") as refused:
        run("push", folder, groq_cloud)
    assert "secret" not in str(refused.value)


def test_an_answer_that_tells_the_key(folder: Path, groq_cloud: Any) -> None:
    groq_cloud.refuse["/openai/v1/files"] = (401, {"error": {"message": "no such key gsk_not_a_real_key"}})
    with pytest.raises(RunError, match=r"no such key \*\*\*$"):
        run("push", folder, groq_cloud)


def test_two_pushes_at_once(folder: Path, groq_cloud: Any) -> None:
    with alone(folder), pytest.raises(InputError, match="by another process"):
        run("push", folder, groq_cloud)
    assert groq_cloud.calls == []
