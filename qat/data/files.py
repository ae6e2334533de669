"""Find, read and hash the files that a user named."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path

from qat.errors import InputError, nearest


def expand(patterns: Sequence[str], option: str) -> list[Path]:
    """Files of paths and globs (``~`` and ``**`` too) in the order given, a glob's sorted by name, each once.

    Args:
        patterns: relative ones start at the current folder.
        option: the option they were given in, for the error message.

    Raises:
        InputError: if one matches no file.
    """
    if isinstance(patterns, str):
        raise InputError(f"{option}={patterns}: give a list, {option}=[{patterns}]")
    files: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        found = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        matches = [match for match in found if match.is_file()]
        if not matches:
            raise InputError(f"{option}: {_why_nothing(path)}")
        files.update(dict.fromkeys(matches))
    return list(files)


def _why_nothing(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a folder; name its files, for example '{path}/*.txt'"
    beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    return f"no file matches '{path}'{nearest(path.name, beside)} (relative to {Path.cwd()})"


def read_text(path: Path) -> str:
    """Text of a UTF-8 file, without a byte order mark.

    Raises:
        InputError: if it cannot be read, is not UTF-8, or is empty or only white space.
    """
    with open_bytes(path) as file:
        text = decode(file.read(), str(path)).removeprefix("\ufeff")
    if not text.strip():
        raise InputError(f"{path} is empty or only white space; remove it from the list or give another file")
    return text


def open_bytes(path: Path) -> BufferedReader:
    """Open a file for reading; InputError if it cannot be."""
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def decode(content: bytes, name: str, offset: int = 0) -> str:
    """Decode UTF-8; InputError with the byte's place if it is not. ``offset`` is where ``content`` starts."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not UTF-8: byte 0x{content[error.start]:02x} at offset {offset + error.start}; "
            "convert it, for example with `iconv -t utf-8`"
        ) from error


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's content; InputError if it cannot be read."""
    with open_bytes(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
