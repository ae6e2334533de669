"""The manifest: its digest by hand, and everything that makes it no manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from qat.errors import InputError
from qat.manifest import MANIFEST, digest_of, verify

TEXT = '{"conv1d":[],"files":{},"format_version":1,"modules":{},"scheme":{},"task":"causal_lm","tied":[]}'


def write(folder: Path, manifest: object) -> Path:
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def signed(**changes: object) -> dict:
    manifest = json.loads(TEXT) | changes
    return manifest | {"sha256": digest_of(manifest)}


def test_the_digest_is_of_sorted_json_without_spaces_and_without_itself() -> None:
    expected = hashlib.sha256(TEXT.encode()).hexdigest()
    shuffled = dict(reversed(json.loads(TEXT).items()))
    assert digest_of(shuffled) == digest_of({**shuffled, "sha256": "any"}) == expected


def test_a_manifest_that_is_whole_is_returned(tmp_path: Path) -> None:
    assert verify(write(tmp_path, signed())) == signed()


@pytest.mark.parametrize("version", [0, 2, "1"])
def test_another_version_is_refused(tmp_path: Path, version: object) -> None:
    with pytest.raises(InputError, match=f"has format version {version}; this qat reads version 1"):
        verify(write(tmp_path, signed(format_version=version)))


@pytest.mark.parametrize("manifest", [[], {}, {"format_version": 1}, {"format_version": 1, "files": 3}, "text"])
def test_json_of_another_kind_is_damaged(tmp_path: Path, manifest: object) -> None:
    with pytest.raises(InputError, match=r"manifest.json is damaged \("):
        verify(write(tmp_path, manifest))


@pytest.mark.parametrize("key", ["conv1d", "modules", "scheme", "sha256", "task", "tied"])
def test_a_key_that_is_missing_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(InputError, match=f"it lacks '{key}'"):
        verify(write(tmp_path, {name: value for name, value in signed().items() if name != key}))


def test_a_file_outside_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "outside.txt").write_text("x")
    files = {"../outside.txt": hashlib.sha256(b"x").hexdigest()}
    with pytest.raises(InputError, match="names '../outside.txt', which is not a file of its own folder"):
        verify(write(tmp_path / "inside", signed(files=files)))
