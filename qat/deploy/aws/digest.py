"""SHA-256 of a file and of its parts, as S3 keeps them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qat.deploy.aws.calls import Section

PART_BYTES = 16 * 2**20
"""Of a part, as long as a file has at most 10000 of them: S3's limit."""
_MOST_PARTS = 10_000
_BLOCK = 2**20


@dataclass(frozen=True)
class Part:
    """One part of a file.

    Attributes:
        section: where its bytes are.
        sha256: 32 bytes.
        md5: hex, as in the ETag of an unencrypted part.
    """

    section: Section
    sha256: bytes
    md5: str


@dataclass(frozen=True)
class Digest:
    """A file read once: its size, its SHA-256 and its parts.

    Attributes:
        path: the file.
        size: bytes.
        sha256: of the whole file, 32 bytes.
        parts: at least one, which has no bytes if the file has none.
    """

    path: Path
    size: int
    sha256: bytes
    parts: tuple[Part, ...]

    @property
    def checksum(self) -> str:
        """What S3 says of an object that was put whole."""
        return encode(self.sha256)

    @property
    def composite(self) -> str:
        """What S3 says of an object that came in these parts: the SHA-256 of their SHA-256, and their number."""
        return f"{encode(hashlib.sha256(b''.join(part.sha256 for part in self.parts)).digest())}-{len(self.parts)}"


def encode(digest: bytes) -> str:
    """Base64, as S3 writes checksums."""
    return base64.b64encode(digest).decode()


def part_bytes(size: int, part: int = PART_BYTES) -> int:
    """Bytes of each part but the last of a file of ``size`` bytes.

    Example:
        >>> part_bytes(5 * 10**9), part_bytes(200 * 10**9)
        (16777216, 20971520)
    """
    while -(-size // part) > _MOST_PARTS:
        part += 2**20 * (4 if part >= PART_BYTES else 1)
    return part


def digest_of(path: Path, seen: Callable[[int], None] = lambda count: None, part: int = PART_BYTES) -> Digest:
    """Read ``path`` once, a MiB at a time.

    Args:
        path: the file.
        seen: is told how many more bytes were read.
        part: bytes of a part, see :func:`part_bytes`.
    """
    size = path.stat().st_size
    length, whole, parts = part_bytes(size, part), hashlib.sha256(), []
    with path.open("rb") as file:
        for start in range(0, max(size, 1), length):
            section = Section(path, start, min(length, size - start))
            sha, md5, left = hashlib.sha256(), hashlib.md5(usedforsecurity=False), section.length
            while block := file.read(min(left, _BLOCK)):
                for digest in (whole, sha, md5):
                    digest.update(block)
                left -= len(block)
                seen(len(block))
            parts.append(Part(section, sha.digest(), md5.hexdigest()))
    return Digest(path, size, whole.digest(), tuple(parts))
