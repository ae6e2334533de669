from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import transformers
from safetensors import SafetensorError

from qat.errors import DiskFull, InputError
from qat.export.base import SIDE_FILES, Exporter, folder_bytes


class Text(Exporter):
    """Writes one file; ``fails`` is raised half-way."""

    def __init__(self, fails: BaseException | None = None) -> None:
        self.fails = fails

    def takes(self, checkpoint) -> None:
        if checkpoint.weights == {}:
            raise InputError("nothing to write")

    def write_files(self, checkpoint, directory: Path) -> None:
        (directory / "half.txt").write_text("half")
        if self.fails is not None:
            raise self.fails
        (directory / "whole.txt").write_text("whole")

    def weight_bytes(self, checkpoint) -> int:
        return 1_234_567

    def read(self, directory: Path):
        return {}


class Checkpoint(SimpleNamespace):
    """As much of a checkpoint as the base class looks at."""

    def write_generation_config(self, directory: Path) -> None:
        (directory / "generation_config.json").write_text("stop")


CHECKPOINT = Checkpoint(weights={"a": 1})


def test_the_folder_has_the_files_and_the_tokenizer(tmp_path):
    source = tmp_path / "quantized"
    source.mkdir()
    for name in ("tokenizer.json", "chat_template.jinja", "model.safetensors", "manifest.json"):
        (source / name).write_text(name)
    Text().write(CHECKPOINT, tmp_path / "exports/text", source)
    files = sorted(path.name for path in (tmp_path / "exports/text").iterdir())
    assert files == ["chat_template.jinja", "generation_config.json", "half.txt", "tokenizer.json", "whole.txt"]
    assert [path.name for path in (tmp_path / "exports").iterdir()] == ["text"]
    assert folder_bytes(tmp_path / "exports/text") == len(
        "half" + "whole" + "stop" + "tokenizer.json" + "chat_template.jinja"
    )


def test_an_existing_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text/mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        Text().write(CHECKPOINT, tmp_path / "text")
    assert [path.name for path in tmp_path.rglob("*")] == ["text", "mine.txt"]


def test_what_the_format_cannot_hold_writes_nothing(tmp_path):
    with pytest.raises(InputError, match="nothing to write"):
        Text().write(Checkpoint(weights={}), tmp_path / "text")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["disk", "quota", "safetensors"],
)
def test_a_full_disk_names_folder_and_bytes_and_leaves_nothing(tmp_path, monkeypatch, error):
    """The disk looked large enough: it is said how much is free when nothing of the export is there any more."""
    monkeypatch.setattr(shutil, "disk_usage", lambda at: SimpleNamespace(free=9_000_000 - (at != tmp_path)))
    with pytest.raises(DiskFull) as raised:
        Text(fails=error).write(CHECKPOINT, tmp_path / "run" / "exports" / "text")
    assert str(raised.value) == (
        f"no disk space left for {tmp_path / 'run/exports/text'}: it needs about 1,377,984 bytes and 9,000,000 are "
        "free again; look for a quota or another program that fills the disk; free some there, or move the run folder "
        "to another disk (it can lie anywhere)"
    )
    assert not list(tmp_path.iterdir())


def test_too_little_space_is_seen_before_writing(tmp_path, monkeypatch):
    """The weights' 1,234,567 bytes, the tokenizer's 5,000, and a hundredth and 128 KiB for all else."""
    source = tmp_path / "quantized"
    source.mkdir()
    (source / "tokenizer.json").write_bytes(b"x" * 4000)
    (source / "merges.txt").write_bytes(b"x" * 1000)
    (source / "model.safetensors").write_bytes(b"x" * 7000)
    needed = 1_234_567 + 5_000 + 12_345 + 131_072
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    exporter = Text(fails=AssertionError("must not write"))
    with pytest.raises(DiskFull) as raised:
        exporter.write(CHECKPOINT, tmp_path / "exports" / "text", source)
    assert f"it needs about {needed:,} bytes and {needed - 1:,} are free; free some there" in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["quantized"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    Text().write(CHECKPOINT, tmp_path / "exports" / "text", source)


def test_a_file_where_the_exports_must_lie_is_named(tmp_path):
    (tmp_path / "exports").touch()
    with pytest.raises(InputError, match=f"^{tmp_path / 'exports'} is no folder, and .*text must lie in it"):
        Text().write(CHECKPOINT, tmp_path / "exports" / "text")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_folder_that_may_not_be_written_is_named(tmp_path, code):
    with pytest.raises(InputError, match=r"text cannot be written \(.*\); make its folder writable, or copy the run"):
        Text(fails=OSError(code, os.strerror(code))).write(CHECKPOINT, tmp_path / "text")
    assert not list(tmp_path.iterdir())


def test_a_file_that_may_not_be_read_is_named_instead_of_the_folder(tmp_path):
    error = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/elsewhere/tokenizer.json")
    with pytest.raises(InputError, match=r"^/elsewhere/tokenizer.json cannot be opened \(Permission denied\)"):
        Text(fails=error).write(CHECKPOINT, tmp_path / "text")
    assert not list(tmp_path.iterdir())


def test_an_existing_export_is_written_over_when_that_is_asked_for(tmp_path):
    for _ in range(2):
        Text().write(CHECKPOINT, tmp_path / "text", overwrite=True)
    assert (tmp_path / "text" / "whole.txt").is_file()
    (tmp_path / "text" / "whole.txt").write_text("old")
    with pytest.raises(ValueError, match="bug"):
        Text(fails=ValueError("bug")).write(CHECKPOINT, tmp_path / "text", overwrite=True)
    assert (tmp_path / "text" / "whole.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "no"), KeyboardInterrupt(), ValueError("bug")])
def test_other_errors_pass_and_leave_nothing(tmp_path, error):
    with pytest.raises(type(error)):
        Text(fails=error).write(CHECKPOINT, tmp_path / "text")
    assert not list(tmp_path.iterdir())


def test_a_missing_tokenizer_folder_is_named_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="tokenizer folder .*nowhere does not exist"):
        Text().write(CHECKPOINT, tmp_path / "text", tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_tokenizer_is_named_and_leaves_nothing(tmp_path):
    (tmp_path / "quantized").mkdir()
    with pytest.raises(InputError, match="no tokenizer in .*quantized"):
        Text().write(CHECKPOINT, tmp_path / "text", tmp_path / "quantized")
    assert [path.name for path in tmp_path.iterdir()] == ["quantized"]


@pytest.mark.parametrize("name", ["Llama", "GPT2", "Bert", "T5", "XLMRoberta", "Gemma", "Qwen2"])
def test_every_vocabulary_of_transformers_own_tokenizers_is_copied(name):
    files = getattr(transformers, f"{name}Tokenizer").vocab_files_names.values()
    assert {*files, "tokenizer_config.json", "chat_template.jinja"} <= {*SIDE_FILES}


@pytest.mark.parametrize("refused", ["exports", ".", "exports/text/half.txt", "exports/beside"])
def test_a_refusal_at_or_around_the_folder_is_one_of_the_folder(tmp_path, refused):
    error = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / refused))
    with pytest.raises(InputError, match=r"text cannot be written \(Permission denied\); make its folder writable"):
        Text(fails=error).write(CHECKPOINT, tmp_path / "exports/text")


def test_a_folder_that_appears_while_writing_is_left_alone(tmp_path):
    class Slow(Text):
        def write_files(self, checkpoint, directory: Path) -> None:
            super().write_files(checkpoint, directory)
            (tmp_path / "text").mkdir()
            (tmp_path / "text/mine.txt").write_text("mine")

    with pytest.raises(InputError, match="text exists by now"):
        Slow().write(CHECKPOINT, tmp_path / "text")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine.txt", "text"]


def test_the_bytes_of_a_folder_count_files_in_folders(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_text("123")
    (tmp_path / "d").write_text("45")
    assert folder_bytes(tmp_path) == 5
