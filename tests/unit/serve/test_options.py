from __future__ import annotations

import pytest

from qat.errors import InputError
from qat.serve.gateway.options import Gateway


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_takes_no_key(host, monkeypatch) -> None:
    monkeypatch.delenv("QAT_SERVE_API_KEY", raising=False)
    assert Gateway(host=host).key() is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.com"])
def test_other_addresses_do(host, monkeypatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(InputError, match="set the environment variable MY_KEY"):
        Gateway(host=host, key_variable="MY_KEY").key()
    monkeypatch.setenv("MY_KEY", "secret")
    assert Gateway(host=host, key_variable="MY_KEY").key() == "secret"


@pytest.mark.parametrize(
    ("key", "host", "message"),
    [
        ("", "127.0.0.1", "QAT_SERVE_API_KEY is empty; unset it"),
        ("  ", "0.0.0.0", "QAT_SERVE_API_KEY is empty; set it to the key"),
        ("schlüssel", "127.0.0.1", "^QAT_SERVE_API_KEY has characters that no HTTP header"),
        ("a\nb", "127.0.0.1", "^QAT_SERVE_API_KEY has characters that no HTTP header"),
    ],
)
def test_keys_that_are_none(key, host, message, monkeypatch) -> None:
    monkeypatch.setenv("QAT_SERVE_API_KEY", key)
    with pytest.raises(InputError, match=message):
        Gateway(host=host).key()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("port", 70000),
        ("max_request_bytes", 0),
        ("time_limit", 0.0),
        ("time_limit", float("nan")),
        ("max_concurrent", 0),
        ("max_waiting", -1),
        ("shutdown_seconds", -1.0),
        ("requests_per_day", 0),
        ("tokens_per_minute", -5),
    ],
)
def test_numbers_that_make_no_sense(option, value) -> None:
    with pytest.raises(InputError, match=f"gateway.{option}="):
        Gateway(**{option: value})
