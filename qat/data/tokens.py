"""The token cache: a split is tokenized once, kept as a memory-mapped array and cut into blocks of any size.

An entry is a folder named by the hash of what decides its content (documents, tokenizer, format)::

    <cache>/tokens/<key>/tokens.bin   the ids of all documents in a row, uint16 or uint32, little endian
                         trained.bin  one byte a token, 0 where it is not trained; left out when all are
                         meta.json    counts, the dtype, the SHA-256 of each file and of itself
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from torch.utils.data import Dataset

from qat import paths
from qat.data import cache_entry
from qat.data.document import Source, Split
from qat.data.packing import cut
from qat.data.split import check_split
from qat.data.tokenize import Encoded, Tokenizer, encode, tokenizer_fingerprint
from qat.errors import InputError, RunError

# Part of every key. Raise it when the files below or what `encode` makes of a document change.
_FORMAT = 1
IGNORED_LABEL = -100  # of a token that is not trained; torch.nn.functional.cross_entropy's default ignore_index


class TokenBlocks(Dataset[dict[str, torch.Tensor]]):
    """A cache entry seen as blocks of ``block_size`` tokens; the tail that fills no block is left out.

    Item ``i`` is ``{"input_ids": int64 [block_size], "labels": int64 [block_size]}``. Labels are the ids
    themselves, not shifted, and -100 where a token is not trained.

    Attributes:
        block_size: tokens a block.
    """

    def __init__(self, folder: Path, block_size: int) -> None:
        self.folder = folder
        self.block_size = block_size
        meta = cache_entry.read_meta(folder)
        name = f"the {meta['split']} split"
        self._ids = cut(np.memmap(folder / "tokens.bin", meta["dtype"], mode="r"), block_size, name)
        self._trained: npt.NDArray[Any] | None = None
        if "trained.bin" in meta["files"]:
            self._trained = cut(np.memmap(folder / "trained.bin", np.bool_, mode="r"), block_size, name)

    @property
    def fingerprint(self) -> str:
        """Decided by the documents, the split and the tokenizer; blocks of every size have the same."""
        return self.folder.name

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        input_ids = torch.from_numpy(self._ids[index].astype(np.int64))
        labels = input_ids.clone()
        if self._trained is not None:
            labels[torch.from_numpy(~self._trained[index])] = IGNORED_LABEL
        return {"input_ids": input_ids, "labels": labels}

    def __reduce__(self) -> tuple[type[TokenBlocks], tuple[Path, int]]:
        # A spawned data worker maps the files itself: pickling a memmap would send it the whole array.
        return type(self), (self.folder, self.block_size)


def build_tokens(
    source: Source, tokenizer: Tokenizer, split: Split, block_size: int, cache_dir: Path | None = None
) -> TokenBlocks:
    """Tokenize a split, or find it in the cache, and cut it into blocks.

    Safe to call from several processes at once: one builds, the others wait and use what it built. An entry
    that is damaged or was left unfinished is built again, with a warning.

    Args:
        source: where the documents come from.
        tokenizer: a transformers tokenizer.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        block_size: tokens a block.
        cache_dir: default :func:`qat.paths.cache_dir`.

    Raises:
        InputError: if the documents cannot be read or tokenized, do not fill a block, or have no trained
            token.
        RunError: if the cache cannot be written.
    """
    check_split(split)
    if tokenizer is None:
        raise InputError("the model has no tokenizer to make tokens with; set model.tokenizer=<folder or hub id>")
    identity = {
        "format": _FORMAT,
        "split": split,
        "source": source.fingerprint(split),
        "tokenizer": tokenizer_fingerprint(tokenizer),
    }
    entry = (cache_dir or paths.cache_dir()) / "tokens" / cache_entry.key(identity)
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{entry}.lock"):
            if not cache_entry.is_intact(entry, "token cache entry"):
                _build(entry, source, tokenizer, split)
            return TokenBlocks(entry, block_size)
    except OSError as error:
        raise RunError(
            f"the token cache {entry} cannot be written: {error.strerror or error}; "
            "free some space or set QAT_CACHE to another folder"
        ) from error


def _build(entry: Path, source: Source, tokenizer: Tokenizer, split: Split) -> None:
    """Write an entry beside its final place, then rename it. The caller holds the entry's lock."""
    for leftover in (entry, *entry.parent.glob(f".{entry.name}.*.tmp")):
        shutil.rmtree(leftover, ignore_errors=True)
    with paths.new_folder(entry) as temporary:
        dtype = np.dtype("<u2" if max(tokenizer.get_vocab().values()) < 2**16 else "<u4")
        _write(temporary, encode(source.documents(split), tokenizer), dtype, split)


def _write(folder: Path, encoded: Iterable[Encoded], dtype: np.dtype[Any], split: Split) -> None:
    tokens = trained_tokens = 0
    ids_path, trained_path = folder / "tokens.bin", folder / "trained.bin"
    with ids_path.open("wb") as ids_file, trained_path.open("wb") as trained_file, _progress() as progress:
        task = progress.add_task(f"Tokenizing {split}", total=None, tokens=0)
        for ids, trained in encoded:
            ids_file.write(ids.astype(dtype).tobytes())
            trained_file.write(trained.tobytes())
            tokens += len(ids)
            trained_tokens += int(trained.sum())
            progress.update(task, tokens=tokens)
    if trained_tokens == 0:
        raise InputError(f"the {split} split has {tokens} tokens and none of them is trained; give other data")
    if trained_tokens == tokens:
        trained_path.unlink()
    files = [path for path in (ids_path, trained_path) if path.exists()]
    facts = {"split": split, "tokens": tokens, "trained_tokens": trained_tokens, "dtype": dtype.str}
    cache_entry.write_meta(folder, files, **facts)


def _progress() -> Progress:
    """Tokens done and time taken, on a terminal only."""
    console = Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}: {task.fields[tokens]:,} tokens"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
