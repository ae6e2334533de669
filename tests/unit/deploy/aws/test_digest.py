from __future__ import annotations

import base64
import hashlib
import tracemalloc
from pathlib import Path

import pytest

from qat.deploy.aws.digest import digest_of, part_bytes


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_parts_and_checksums(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10
    (tmp_path / "w").write_bytes(content)
    seen: list[int] = []
    digest = digest_of(tmp_path / "w", seen.append, part=1000)
    cuts = [content[:1000], content[1000:2000], content[2000:]]
    assert [(part.section.start, part.section.length) for part in digest.parts] == [
        (0, 1000),
        (1000, 1000),
        (2000, 560),
    ]
    assert [part.sha256 for part in digest.parts] == [hashlib.sha256(cut).digest() for cut in cuts]
    assert [part.md5 for part in digest.parts] == [hashlib.md5(cut).hexdigest() for cut in cuts]
    assert digest.checksum == b64(hashlib.sha256(content).digest())
    joined = b"".join(hashlib.sha256(cut).digest() for cut in cuts)
    assert digest.composite == b64(hashlib.sha256(joined).digest()) + "-3"
    assert sum(seen) == digest.size == len(content)


def test_an_empty_file_has_one_part(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"")
    digest = digest_of(tmp_path / "w")
    assert len(digest.parts) == 1 and digest.checksum == b64(hashlib.sha256(b"").digest())


@pytest.mark.parametrize("size", [0, 1, 16 * 2**20, 167_772_160_000, 167_772_160_001, 5 * 10**12])
def test_never_more_parts_than_s3_takes(size: int) -> None:
    assert -(-size // part_bytes(size)) <= 10_000


def test_a_file_is_never_held_whole(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(bytes(2**25))
    tracemalloc.start()
    digest_of(tmp_path / "w", part=2**24)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22
