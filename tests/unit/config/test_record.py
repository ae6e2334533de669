"""What a run folder says about what ran: resolved, and without secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from qat.config import record
from qat.errors import InputError


def test_interpolations_are_resolved_but_for_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QAT_TEST_SECRET", "hush")
    config = OmegaConf.create(
        {
            "a": 3,
            "b": "${a}",
            "c": "${oc.env:QAT_TEST_SECRET}",
            "d": "x/${c}",
            "e": ["${oc.env:QAT_TEST_SECRET,y}"],
        }
    )
    resolved = record.resolved(config)
    assert resolved["b"] == 3
    assert resolved["c"] == "${oc.env:QAT_TEST_SECRET}"
    assert "hush" not in str(resolved)


@pytest.mark.parametrize(
    "key",
    ["key", "api_key", "API_KEY", "wandb_key", "token", "hf_token", "secret", "client_secret", "password"],
)
def test_values_of_secret_keys_are_replaced(key: str) -> None:
    config = OmegaConf.create({"logger": {key: "hush", "keys": {key: ["hush"]}}})
    assert record.resolved(config) == {"logger": {key: "<redacted>", "keys": {key: "<redacted>"}}}
    assert record.redact_override(f"+logger.{key}=hush") == f"+logger.{key}=<redacted>"


@pytest.mark.parametrize(
    ("override", "recorded"),
    [
        ("logger={api_key: hush}", "logger=<redacted>"),
        ("logger={_target_: a.B, settings: {hf_token: hush}}", "logger=<redacted>"),
        ("+model.headers={Authorization: 'Bearer hush'}", "+model.headers=<redacted>"),
        ("+model.token=[hush, hush]", "+model.token=<redacted>"),
        ("++logger.password=1234", "++logger.password=<redacted>"),
        ("logger.credentials={user: me, value: hush}", "logger.credentials=<redacted>"),
        ("data.path='https://me:hush@host/data'", "data.path=<redacted>"),
        ("data.path='https://hush@host/data'", "data.path=<redacted>"),
        ("data.train=['a.txt','https://host/b.txt?part=1&X-Amz-Signature=hush']", "data.train=<redacted>"),
        ("data.path=s3://bucket/it@home.txt", "data.path=s3://bucket/it@home.txt"),
        ("schedule.x={bits: [8, 6]}", "schedule.x={bits: [8, 6]}"),
        ("~logger", "~logger"),
        ("export=[a,b]", "export=[a,b]"),
    ],
)
def test_an_override_that_holds_a_secret_is_recorded_without_its_value(override: str, recorded: str) -> None:
    assert record.redact_override(override) == recorded


@pytest.mark.parametrize(
    ("value", "recorded"),
    [
        ({"logger": {"password": 1234}}, {"logger": {"password": "<redacted>"}}),
        ({"credentials": {"user": "me", "value": "hush"}}, {"credentials": "<redacted>"}),
        ({"list": [{"api_key": "hush"}]}, {"list": [{"api_key": "<redacted>"}]}),
        ({"path": "https://me:hush@host/x"}, {"path": "https://<redacted>@host/x"}),
        ({"path": ["http://hush@host"]}, {"path": ["http://<redacted>@host"]}),
        ({"path": "https://host/x?a=1&token=hush&b=2"}, {"path": "https://host/x?a=1&token=<redacted>&b=2"}),
        ({"model": {"token": True, "secret": None}}, {"model": {"token": True, "secret": None}}),
    ],
)
def test_secrets_of_every_shape_are_redacted(value: dict[str, Any], recorded: dict[str, Any]) -> None:
    assert record.resolved(OmegaConf.create(value)) == recorded


@pytest.mark.parametrize("key", ["tokenizer", "max_new_tokens", "text_key", "messages_key", "keyboard", "monkey.x"])
def test_other_keys_stay_readable(key: str) -> None:
    assert record.resolved(OmegaConf.create({key: "plain"})) == {key: "plain"}
    assert record.redact_override(f"data.{key}=plain") == f"data.{key}=plain"


def test_a_secret_that_is_not_set_is_not_redacted() -> None:
    assert record.resolved(OmegaConf.create({"token": None})) == {"token": None}


def test_written_and_read_back(tmp_path: Path) -> None:
    record.write({"seed": 1}, ["seed=1", "logger.api_key=<redacted>"], tmp_path)
    assert record.read_config(tmp_path) == {"seed": 1}
    assert record.read_overrides(tmp_path) == ["seed=1"]  # a redacted one cannot be used again
    assert yaml.safe_load((tmp_path / ".hydra" / "overrides.yaml").read_text()) == [
        "seed=1",
        "logger.api_key=<redacted>",
    ]


@pytest.mark.parametrize("content", ["[1, 2", "\x00", "- a list"])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    record.write({}, [], tmp_path)
    (tmp_path / ".hydra" / "config.yaml").write_text(content)
    with pytest.raises(InputError, match=r"config\.yaml is damaged"):
        record.read_config(tmp_path)


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run folder"):
        record.read_overrides(tmp_path)
