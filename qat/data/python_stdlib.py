"""The source code of Python's own standard library: real text that is on every machine, also offline."""

from __future__ import annotations

import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from qat.data.document import SPLITS, Split, TextDocument
from qat.data.split import check_shares, check_split, split_of
from qat.errors import InputError

# Folders that are not the library, that distributions ship apart (so that the corpus of python.org's build
# and of Debian's differ by a handful of files only), or whose files are generated tables that nobody wrote.
_NOT_THE_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}
_TESTS = {"test", "tests", "idle_test"}
_SHIPPED_APART = {"idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "distutils"}
_GENERATED = {"encodings", "pydoc_data"}
_EXCLUDED = _NOT_THE_LIBRARY | _TESTS | _SHIPPED_APART | _GENERATED
# What a distribution or the build of this very interpreter adds.
_EXCLUDED_PREFIXES = ("config-", "_sysconfigdata", "_distutils_system_mod", "sitecustomize", "usercustomize")


class PythonStdlib:
    """``*.py`` of the standard library of the running Python, one document a file, split by file.

    A file's split depends on its path relative to the library only, so a file is in the same split in every
    Python version and on every machine. Files that are empty or not UTF-8 are left out.

    Args:
        validation_share: share of the files held out for validation.
        test_share: share of the files held out for the final test.

    The default shares give about 300 KB each for validation and test, 7 MB for training.
    """

    def __init__(self, validation_share: float = 0.04, test_share: float = 0.04) -> None:
        check_shares(validation_share, test_share)
        self.validation_share = validation_share
        self.test_share = test_share
        self.root = Path(sysconfig.get_path("stdlib"))

    @cached_property
    def _files(self) -> dict[str, bytes]:
        """POSIX path relative to the library -> content, sorted by path."""
        files = {}
        for folder, subfolders, names in os.walk(self.root):
            subfolders[:] = filter(_belongs, subfolders)  # do not walk through site-packages
            for path in (Path(folder, name) for name in names if name.endswith(".py") and _belongs(name)):
                content = path.read_bytes() if path.is_file() else b""  # not a file: a dangling link
                if content.strip() and _is_utf8(content):
                    files[path.relative_to(self.root).as_posix()] = content
        if not files:
            raise InputError(f"{self.root} holds no Python source (a zipped or stripped Python); use data=text")
        return dict(sorted(files.items()))

    def _files_of(self, split: Split) -> dict[str, bytes]:
        check_split(split)
        return {
            name: content
            for name, content in self._files.items()
            if split_of(name, self.validation_share, self.test_share) == split
        }

    def documents(self, split: Split) -> Iterator[TextDocument]:
        """Yield the files of ``split`` in the order of their relative paths."""
        files = self._files_of(split)
        if not files:
            raise InputError(f"the {split} split of Python's standard library is empty; set {split}_share above 0")
        for name, content in files.items():
            yield TextDocument(text=content.decode(), name=str(self.root / name))

    def fingerprint(self, split: Split) -> str:
        """SHA-256 over the relative paths and contents of ``split``."""
        return _corpus_hash(self._files_of(split).items())

    def describe(self) -> dict[str, Any]:
        """Python's version, the hash of the whole corpus, and files and bytes of each split."""
        parts = {split: self._files_of(split) for split in SPLITS}
        return {
            "source": "python_stdlib",
            "python": platform.python_version(),
            "corpus_sha256": _corpus_hash(self._files.items()),
            "files": {split: len(files) for split, files in parts.items()},
            "bytes": {split: sum(map(len, files.values())) for split, files in parts.items()},
        }


def _belongs(name: str) -> bool:
    """Whether a file or folder of this name is part of the corpus."""
    return name not in _EXCLUDED and not name.startswith(_EXCLUDED_PREFIXES)


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _corpus_hash(files: Iterable[tuple[str, bytes]]) -> str:
    """Lengths go in with the bytes, so that no two different corpora run together to the same stream."""
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
