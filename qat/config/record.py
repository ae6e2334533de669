"""What ran, for the run folder: ``.hydra/config.yaml`` and ``.hydra/overrides.yaml``, without secrets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from qat.config import scheme_file
from qat.errors import InputError
from qat.paths import new_folder

REDACTED = "<redacted>"
# The last word of a key, so that `tokenizer` and `max_new_tokens` stay readable.
_SECRET = re.compile(r"(?i)(^|[._-])(\w*(key|token|secret|password|passwd|passphrase|credentials?|authorization)|pwd)$")
# In a URL: who logs in, and query parameters that name a secret.
_IN_URL = re.compile(
    r"(?i)(?<=://)[^/\s]+(?=@)|(?<=[?&])((?:[\w-]*(?:key|token|secret|password|signature|credential))|sig)=[^&\s'\"]+"
)
_COLUMNS = ("text_key", "messages_key")  # names of columns, not secrets
_FROM_ENV = re.compile(r"\$\{\s*(oc\.)?env:")


def resolved(config: DictConfig) -> dict[str, Any]:
    """The config as plain data, as it may be written down.

    Interpolations are resolved, except those of the environment: these stay as they were written, and so do
    the parts of values that refer to them. Values of keys that name a secret are replaced.
    """
    raw = OmegaConf.to_container(config, resolve=False)
    safe = OmegaConf.to_container(OmegaConf.create(_escape_env(raw)), resolve=True)
    redacted = redact(safe)
    assert isinstance(redacted, dict)
    return redacted


def redact(node: Any, key: str = "") -> Any:
    """Plain data with the values of secret keys, and the secrets in URLs, replaced; ``key`` is that of ``node``.

    Example:
        >>> redact({"token": "abc", "path": "https://me:abc@host/x"})
        {'token': '<redacted>', 'path': 'https://<redacted>@host/x'}
    """
    if node is None or isinstance(node, bool):
        return node
    if _is_secret(key):
        return REDACTED
    if isinstance(node, dict):
        return {name: redact(value, str(name)) for name, value in node.items()}
    if isinstance(node, list):
        return [redact(item) for item in node]
    return _IN_URL.sub(_without_value, node) if isinstance(node, str) else node


def redact_override(override: str) -> str:
    """``logger.api_key=abc`` -> ``logger.api_key=<redacted>``; one without a secret is returned as it is.

    A value that holds a secret somewhere, as ``logger={api_key: abc}`` does, is replaced whole.

    Example:
        >>> redact_override("+logger.api_key=abc")
        '+logger.api_key=<redacted>'
    """
    key, separator, _ = override.partition("=")
    if not separator:
        return override
    try:
        value = OverridesParser.create().parse_override(override).value()
    except OverrideParseException:
        return f"{key}={REDACTED}"
    return override if redact(value, key) == value else f"{key}={REDACTED}"


def write(config: dict[str, Any], overrides: Sequence[str], folder: Path) -> None:
    """Write both files, and a scheme that was a file, into the new ``<folder>/.hydra``; without secrets by now."""
    with new_folder(folder / ".hydra") as temporary:
        (temporary / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        (temporary / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)), encoding="utf-8")
        scheme_file.write(config, temporary)


def read_config(folder: Path) -> dict[str, Any]:
    """The config that the run in ``folder`` was made with.

    Raises:
        InputError: if ``folder`` is not a run folder.
    """
    config = _read(folder, "config.yaml")
    if not isinstance(config, dict):
        raise InputError(f"{folder}/.hydra/config.yaml is damaged; it must hold a mapping")
    return config


def read_overrides(folder: Path) -> list[str]:
    """The overrides that the run in ``folder`` was made with; redacted ones are left out.

    Where it read a scheme from a file, the last one reads what the run has recorded of it.

    Raises:
        InputError: if ``folder`` is not a run folder.
    """
    overrides = _read(folder, "overrides.yaml")
    if not isinstance(overrides, list):
        raise InputError(f"{folder}/.hydra/overrides.yaml is damaged; it must hold a list of key=value")
    kept = [str(override) for override in overrides if not str(override).endswith(f"={REDACTED}")]
    return [*kept, *scheme_file.override(folder / ".hydra")]


def _read(folder: Path, name: str) -> Any:
    path = folder / ".hydra" / name
    if not path.is_file():
        raise InputError(f"{folder} is not a run folder (it has no .hydra/{name}); give one that 'qat run' made")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged: {str(error).splitlines()[0]}") from error


def _escape_env(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _escape_env(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_escape_env(item) for item in node]
    return node.replace("${", "\\${") if isinstance(node, str) and _FROM_ENV.search(node) else node


def _without_value(found: re.Match[str]) -> str:
    return REDACTED if found[1] is None else f"{found[1]}={REDACTED}"


def _is_secret(key: str) -> bool:
    return _SECRET.search(key) is not None and key.rpartition(".")[2] not in _COLUMNS
