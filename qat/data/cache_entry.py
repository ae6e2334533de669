"""A cache entry: a folder of data files with a ``meta.json`` that has the SHA-256 of each and of itself."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from qat.data.files import sha256

_log = logging.getLogger("qat.data")


def key(identity: dict[str, Any]) -> str:
    """Name of the entry whose content ``identity`` decides: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def write_meta(folder: Path, files: list[Path], **facts: Any) -> None:
    """Write ``meta.json`` with ``facts`` and the digest of each of ``files``."""
    meta = {**facts, "files": {file.name: sha256(file) for file in files}}
    (folder / "meta.json").write_text(json.dumps({**meta, "sha256": _digest(meta)}, indent=2))


def read_meta(entry: Path) -> dict[str, Any]:
    """Read ``meta.json``; ValueError if it is not what was written."""
    meta: dict[str, Any] = json.loads((entry / "meta.json").read_bytes())
    if not isinstance(meta, dict) or meta.pop("sha256", None) != _digest(meta):
        raise ValueError("meta.json does not have the checksum it was written with")
    return meta


def is_intact(entry: Path, what: str) -> bool:
    """Whether an entry exists and every byte of it is as it was written; a damaged one is warned of."""
    if not entry.exists():
        return False
    try:
        for name, digest in read_meta(entry)["files"].items():
            if sha256(entry / name) != digest:
                raise ValueError(f"{name} does not have the checksum it was written with")
    except (OSError, ValueError) as error:
        _log.warning("the %s %s is damaged and is built again: %s", what, entry, error)
        return False
    return True


def _digest(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
