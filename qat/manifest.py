"""The manifest of a quantized checkpoint: what its files are, and whether they still are it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qat.errors import InputError
from qat.tensor_files import sha256

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SELF = "sha256"
"""Key of the manifest for the digest of everything else in it."""
REPAIR = "quantize again (qat run, qat train or qat ptq) or copy the folder again from where it came"
"""What to do about a checkpoint that is not what its manifest says."""
_KEYS = ("format_version", "task", "scheme", "modules", "tied", "conv1d", "files", SELF)


def digest_of(manifest: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of what a manifest says: of its JSON with sorted keys and no spaces, without its own digest."""
    content = {key: value for key, value in manifest.items() if key != SELF}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def verify(directory: Path) -> dict[str, Any]:
    """Check the sha256 of every file of a checkpoint folder, its manifest included, and return the manifest.

    Raises:
        InputError: no such checkpoint, another format version, or a file that is missing or altered, which is named.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise InputError(f"{directory} is no quantized checkpoint: it has no {MANIFEST}; {REPAIR}")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        version, files = manifest["format_version"], dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); {REPAIR}") from None
    if version != FORMAT_VERSION:
        raise InputError(f"{path} has format version {version}; this qat reads version {FORMAT_VERSION}")
    if missing := [key for key in _KEYS if key not in manifest]:
        raise InputError(f"{path} is damaged: it lacks '{missing[0]}'; {REPAIR}")
    if manifest[SELF] != digest_of(manifest):
        raise InputError(f"{path} is damaged: its sha256 is not the one that it holds; {REPAIR}")
    for name, digest in files.items():
        if Path(name).name != name:
            raise InputError(f"{path} names '{name}', which is not a file of its own folder")
        if not (directory / name).is_file():
            raise InputError(f"{directory / name} is missing; {REPAIR}")
        if sha256(directory / name) != digest:
            raise InputError(f"{directory / name} is damaged: its sha256 is not the manifest's; {REPAIR}")
    return manifest
