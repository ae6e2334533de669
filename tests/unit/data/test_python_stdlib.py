from __future__ import annotations

import hashlib
import platform
import sysconfig
from pathlib import Path

import pytest

from qat.data.document import SPLITS
from qat.data.python_stdlib import PythonStdlib
from qat.errors import InputError


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path) if name == "stdlib" else "")
    return tmp_path


def write(root: Path, *names: str, content: bytes = b"x = 1\n") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def names_of(source: PythonStdlib, split: str) -> list[str]:
    return [Path(document.name).relative_to(source.root).as_posix() for document in source.documents(split)]


def test_what_belongs_to_the_corpus(library: Path) -> None:
    write(library, "zipfile.py", "json/decoder.py", "ast.py")
    write(library, "site-packages/a.py", "dist-packages/a.py", "test/a.py", "unittest/test/a.py", "a/tests/b.py")
    write(library, "idlelib/idle_test/a.py", "json/__pycache__/a.py", "config-3.11-linux/a.py", "notes.txt")
    write(library, "_sysconfigdata__linux.py", "sitecustomize.py", "encodings/cp437.py", "pydoc_data/topics.py")
    write(library, "latin.py", content="# é\n".encode("latin-1"))
    write(library, "empty.py", content=b"\n")
    (library / "dangling.py").symlink_to(library / "nowhere.py")
    assert names_of(PythonStdlib(0.0, 0.0), "train") == ["ast.py", "json/decoder.py", "zipfile.py"]


def test_a_file_keeps_its_split_in_every_version() -> None:
    """These assignments are a promise: change them and no result is comparable with an earlier one."""
    source = PythonStdlib()
    expected = {
        "dataclasses.py": "test",
        "tarfile.py": "test",
        "_pydecimal.py": "validation",
        "ast.py": "train",
    }
    found = {name: split for split in SPLITS for name in names_of(source, split) if name in expected}
    assert found == expected


def test_split_depends_on_the_path_only(library: Path) -> None:
    names = [f"module{i}.py" for i in range(200)]
    write(library, *names)
    before = {split: names_of(PythonStdlib(0.1, 0.1), split) for split in SPLITS}
    write(library, *names, "another.py", content=b"changed = True\n")
    after = {split: names_of(PythonStdlib(0.1, 0.1), split) for split in SPLITS}
    for split in SPLITS:
        assert [name for name in after[split] if name != "another.py"] == before[split] != []


def test_fingerprint_follows_names_and_content_of_its_split(library: Path) -> None:
    write(library, "a.py", "b.py")
    first = PythonStdlib(0.0, 0.0).fingerprint("train")
    expected = hashlib.sha256(b"a.py\x006\x00x = 1\nb.py\x006\x00x = 1\n").hexdigest()
    assert first == expected
    write(library, "b.py", content=b"x = 2\n")
    assert PythonStdlib(0.0, 0.0).fingerprint("train") != first


def test_describe_the_real_library() -> None:
    source = PythonStdlib()
    report = source.describe()
    assert report["python"] == platform.python_version()
    assert len(report["corpus_sha256"]) == 64
    for split in SPLITS:
        texts = [document.text for document in source.documents(split)]
        assert report["files"][split] == len(texts)
        assert report["bytes"][split] == sum(len(text.encode()) for text in texts)
    assert report["bytes"]["train"] > 10 * report["bytes"]["test"] > 1_000_000


def test_empty_split_names_the_option(library: Path) -> None:
    write(library, "a.py")
    with pytest.raises(InputError, match="set test_share above 0"):
        list(PythonStdlib(0.0, 0.0).documents("test"))


def test_python_without_source(library: Path) -> None:
    with pytest.raises(InputError, match="holds no Python source"):
        list(PythonStdlib().documents("train"))


def test_bad_share() -> None:
    with pytest.raises(InputError, match=r"validation_share=1\.5"):
        PythonStdlib(validation_share=1.5)
