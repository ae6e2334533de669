"""What a teacher says of every training block, written to disk once, so that it is not needed while training.

An entry is a folder named by the hash of what decides its content (teacher, tokens, block size, k)::

    <cache>/teacher/<key>/ids.bin        the k likeliest tokens of each position, uint16 or uint32 [positions, k]
                          log_probs.bin  their log-probabilities and that of all others, float16 [positions, k + 1]
                          meta.json      counts, and the SHA-256 of each file and of itself

These are the logits but for a constant a position, which changes no distribution; near 0, where the likely tokens are,
float16 is at its finest. An entry that is under way is a hidden folder beside it, and goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import Dataset

from qat import paths
from qat.data import cache_entry
from qat.data.tokens import TokenBlocks
from qat.errors import DiskFull, InputError, RunError, is_disk_full
from qat.training.losses.divergence import chunk_rows, top_k_log_probs
from qat.training.outputs import arguments

_FORMAT = 1  # part of every key


@dataclass(frozen=True)
class _Layout:
    """Shapes and dtypes of an entry."""

    blocks: int
    block_size: int
    k: int
    vocabulary: int

    @property
    def files(self) -> dict[str, tuple[np.dtype[Any], int]]:
        """Dtype and numbers a position of each file."""
        ids = np.dtype("<u2" if self.vocabulary <= 2**16 else "<u4")
        return {"ids.bin": (ids, self.k), "log_probs.bin": (np.dtype("<f2"), self.k + 1)}

    def block_bytes(self, name: str) -> int:
        """Bytes of one block in a file."""
        dtype, width = self.files[name]
        return self.block_size * width * dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of both files."""
        return self.blocks * sum(map(self.block_bytes, self.files))


class Taught(Dataset[dict[str, Tensor]]):
    """Token blocks, each with what the teacher says of it.

    An item is that of ``blocks`` with ``teacher_ids`` int64 ``[block, k]`` and ``teacher_log_probs`` float16
    ``[block, k + 1]``, see :func:`qat.training.losses.divergence.top_k_log_probs`.

    Attributes:
        nbytes: of the entry's files.
    """

    def __init__(self, blocks: TokenBlocks, folder: Path, layout: _Layout) -> None:
        self.blocks = blocks
        self.folder = folder
        self.layout = layout
        self.nbytes = layout.nbytes
        shapes = {name: (layout.blocks, layout.block_size, width) for name, (_, width) in layout.files.items()}
        self._ids, self._log_probs = (
            np.memmap(folder / name, dtype, mode="r", shape=shapes[name]) for name, (dtype, _) in layout.files.items()
        )

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {
            **self.blocks[index],
            "teacher_ids": torch.from_numpy(self._ids[index].astype(np.int64)),
            "teacher_log_probs": torch.from_numpy(self._log_probs[index].astype(np.float16)),
        }

    def __reduce__(self) -> tuple[type[Taught], tuple[TokenBlocks, Path, _Layout]]:
        # A spawned data worker maps the files itself: pickling a memmap would send it the whole array.
        return type(self), (self.blocks, self.folder, self.layout)


def check_k(model: nn.Module, k: int) -> None:
    """Refuse more tokens than the model has.

    Raises:
        InputError: naming the vocabulary.
    """
    if k > (vocabulary := _vocabulary(model)):
        raise InputError(f"loss.k={k} is above the model's vocabulary of {vocabulary} tokens; 64 is a usual choice")


def teach(
    teacher: nn.Module,
    blocks: TokenBlocks,
    k: int,
    batch_size: int,
    device: torch.device,
    announce: Callable[[str], None],
    cache_dir: Path | None = None,
) -> Taught:
    """Ask the teacher about every block, or find what it said in the cache.

    Safe to call from several processes at once: one writes, the others wait. One that is stopped on the way goes on
    with its next call; what it had not yet brought to the disk is asked again.

    Args:
        teacher: a causal language model, on the CPU; it is brought to ``device`` and back.
        blocks: all that training may see.
        k: tokens kept a position.
        batch_size: blocks asked at once.
        device: where the teacher runs.
        announce: told the size before anything is written.
        cache_dir: default :func:`qat.paths.cache_dir`.

    Raises:
        InputError: if ``k`` is above the vocabulary.
        DiskFull: if there is no room.
        RunError: if the cache cannot be written.
    """
    check_k(teacher, k)
    layout = _Layout(len(blocks), blocks.block_size, k, _vocabulary(teacher))
    identity = {
        "format": _FORMAT,
        "teacher": digest(teacher),
        "tokens": blocks.fingerprint,
        "block_size": blocks.block_size,
        "k": k,
    }
    entry = (cache_dir or paths.cache_dir()) / "teacher" / cache_entry.key(identity)
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{entry}.lock"):
            if not cache_entry.is_intact(entry, "teacher cache entry"):
                size = f"{layout.nbytes / 1e6:,.1f} MB"
                announce(f"the teacher's {k} likeliest tokens of {len(blocks):,} blocks: {size} in {entry}")
                _build(entry, layout, teacher, blocks, batch_size, device)
    except OSError as error:
        kind = DiskFull if is_disk_full(error) else RunError
        raise kind(
            f"the teacher cache {entry} cannot be written: {error.strerror or error}; "
            "free some space, set QAT_CACHE to another folder, or choose a smaller loss.k"
        ) from error
    return Taught(blocks, entry, layout)


def digest(model: nn.Module) -> str:
    """SHA-256 of everything that decides what a model says: its weights, their dtypes, and its configuration."""
    found = hashlib.sha256()
    config: dict[str, Any] = model.config.to_dict()  # type: ignore[operator, union-attr]
    shown = {name: value for name, value in config.items() if name[0] != "_" and name != "transformers_version"}
    found.update(json.dumps(shown, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def _vocabulary(model: nn.Module) -> int:
    return int(model.config.vocab_size)  # type: ignore[arg-type, union-attr]


def _build(
    entry: Path, layout: _Layout, teacher: nn.Module, blocks: TokenBlocks, batch_size: int, device: torch.device
) -> None:
    """Fill the folder that is under way from where it stands, then rename it. The caller holds the entry's lock."""
    folder = entry.with_name(f".{entry.name}.partial")
    folder.mkdir(exist_ok=True)
    paths_ = [folder / name for name in layout.files]
    done = _whole_blocks(folder, layout, batch_size)
    missing = (layout.blocks - done) * layout.nbytes // layout.blocks
    if missing > (free := shutil.disk_usage(folder).free):
        raise DiskFull(
            f"the teacher cache needs {missing / 1e6:,.1f} MB in {folder.parent} and {free / 1e6:,.1f} MB are free; "
            "free some space, set QAT_CACHE to another folder, or choose a smaller loss.k"
        )
    files: list[BinaryIO] = []
    try:
        for path in paths_:
            os.truncate(path, done * layout.block_bytes(path.name))
            files.append(path.open("ab"))
        for part in _answers(teacher.eval(), layout, blocks, done, batch_size, device):
            for file, (dtype, _), answer in zip(files, layout.files.values(), part, strict=True):
                file.write(answer.cpu().numpy().astype(dtype).tobytes())
                file.flush()
                os.fsync(file.fileno())
    finally:
        teacher.cpu()
        for file in files:
            file.close()
    cache_entry.write_meta(folder, paths_, blocks=layout.blocks, block_size=layout.block_size, k=layout.k)
    paths.publish(folder, entry, overwrite=True)


def _whole_blocks(folder: Path, layout: _Layout, batch_size: int) -> int:
    """Blocks that are on disk for certain: whole batches, without the last one, which may not be whole."""
    for name in layout.files:
        (folder / name).touch()
    blocks = min((folder / name).stat().st_size // layout.block_bytes(name) for name in layout.files)
    return max(0, min(blocks, layout.blocks) // batch_size - 1) * batch_size


@torch.no_grad()
def _answers(
    teacher: nn.Module, layout: _Layout, blocks: TokenBlocks, done: int, batch_size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and log-probabilities of batch after batch, from block ``done`` on, ``[positions, ...]`` each."""
    teacher.to(device)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Asking the teacher", total=layout.blocks, completed=done)
        for first in range(done, layout.blocks, batch_size):
            rows = range(first, min(first + batch_size, layout.blocks))
            batch = {"input_ids": torch.stack([blocks[row]["input_ids"] for row in rows]).to(device)}
            logits = teacher(**arguments("causal_lm", batch)).logits.flatten(0, 1)
            parts = [top_k_log_probs(part, layout.k) for part in logits.split(chunk_rows(layout.vocabulary))]
            ids, log_probs = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
            yield ids, log_probs
            progress.update(task, completed=rows.stop)
