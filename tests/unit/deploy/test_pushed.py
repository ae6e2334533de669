from __future__ import annotations

from pathlib import Path

import pytest

from qat.deploy.pushed import alone, write_whole
from qat.errors import InputError


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "a.json", "one")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        write_whole(tmp_path / "a.json", "two")
    assert (tmp_path / "a.json").read_text() == "one"


def test_two_at_once(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(InputError, match="by another process"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_no_lock_is_left(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="broken"), alone(tmp_path):
        raise OSError("broken")
    assert [*tmp_path.iterdir()] == []


def test_a_dry_run_leaves_no_file(tmp_path: Path) -> None:
    with alone(tmp_path, dry_run=True):
        assert [*tmp_path.iterdir()] == []


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"), alone(tmp_path / "none"):
        pass
