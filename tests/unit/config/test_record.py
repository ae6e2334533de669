"""What a run folder says about what ran: resolved, and without secrets."""

from __future__ import annotations

from pathlib import Path

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
    assert record.resolved(config) == {"logger": {key: "<redacted>", "keys": {key: ["<redacted>"]}}}
    assert record.redact_override(f"+logger.{key}=hush") == f"+logger.{key}=<redacted>"


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
