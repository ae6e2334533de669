"""Measure how fast a large synthetic model is streamed to an INT4 export, beside copying its files.

Every round copies the model's files and then exports it, so that both meet the same machine. Both start with the
model's files out of the page cache (as a model larger than memory is) and end when the disk has everything.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from qat.errors import DiskFull, InputError, RunError, nearest
from qat.jobs.stages.console import say, show
from qat.jobs.stages.synthetic import write_model
from qat.report.environment import environment
from qat.report.tables import human_bytes, plain_table
from qat.scheme import preset
from qat.tensor_files import parse_size

ACCEPTS = ()
SUBJECTS = ("export",)


@dataclass(frozen=True)
class Options:
    """What can be said behind ``qat bench export``, as ``key=value``.

    Attributes:
        size: weights of the synthetic model.
        shard_size: of each of its files.
        scheme: preset that it is quantized to.
        rounds: how often to copy and export.
        bench_dir: an existing folder on the disk to measure; default: the system's for temporary files.
        json: where to write the numbers.
    """

    size: str = "8GB"
    shard_size: str = "1GB"
    scheme: str = "w4a16_g128"
    rounds: int = 3
    bench_dir: str | None = None
    json: str | None = None

    @classmethod
    def parse(cls, words: Sequence[str]) -> Options:
        """Read ``export key=value ...``.

        Raises:
            InputError: no subject, or a key or value that is none.
        """
        subject, *rest = words or ("",)
        if subject not in SUBJECTS:
            raise InputError(f"qat bench measures {' or '.join(SUBJECTS)}; write: qat bench export [key=value ...]")
        known = [field.name for field in fields(cls)]
        given: dict[str, Any] = {}
        for word in rest:
            key, equals, value = word.partition("=")
            if key not in known or not equals:
                raise InputError(
                    f"qat bench export has no option '{word}'; options: {', '.join(known)}{nearest(key, known)}"
                )
            given[key] = value
        if "rounds" in given:
            if not given["rounds"].isdecimal() or int(given["rounds"]) < 1:
                raise InputError(f"rounds={given['rounds']} must be a whole number of 1 or more")
            given["rounds"] = int(given["rounds"])
        return cls(**given)


def main(words: Sequence[str]) -> None:
    """Run the command.

    Raises:
        InputError: an option that cannot be used.
        DiskFull: less space than the model and one copy of it take.
    """
    options = Options.parse(words)
    preset(options.scheme)
    size = parse_size(options.size)
    with _workplace(options.bench_dir) as folder:
        free = shutil.disk_usage(folder).free
        if free < 2.1 * size:
            raise DiskFull(
                f"{folder} has {human_bytes(free)} free, and the model and its copy take "
                f"{human_bytes(int(2.1 * size))}; choose a smaller size=, or another disk with bench_dir="
            )
        say(f"writing a synthetic model of {options.size} to {folder}")
        (folder / "model").mkdir()
        written = write_model(folder / "model", options.size, options.shard_size)
        rounds = []
        for number in range(1, options.rounds + 1):
            rounds.append({"copy_seconds": _copy(folder), **_export(folder, options.scheme)})
            say(f"round {number}: copy {rounds[-1]['copy_seconds']:.1f} s, export {rounds[-1]['seconds']:.1f} s")
    _report(options, written, rounds)


@contextmanager
def _workplace(directory: str | None) -> Iterator[Path]:
    """A folder for the large files, gone afterwards."""
    if directory is not None and not Path(directory).is_dir():
        raise InputError(f"bench_dir={directory} is no folder")
    with tempfile.TemporaryDirectory(prefix="qat-bench-", dir=directory) as folder:
        yield Path(folder)


def _forget(folder: Path) -> None:
    """Write everything down, and drop the pages of the files in ``folder`` where the system lets us."""
    os.sync()
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _copy(folder: Path) -> float:
    """Seconds to copy the model's files, down to the disk."""
    _forget(folder / "model")
    start = time.perf_counter()
    shutil.copytree(folder / "model", folder / "copy")
    os.sync()
    seconds = time.perf_counter() - start
    shutil.rmtree(folder / "copy")
    return seconds


def _export(folder: Path, scheme: str) -> dict[str, Any]:
    """Export the model in a process of its own; see :mod:`qat.jobs.stages.measured_export`."""
    _forget(folder / "model")
    target = folder / "export"
    words = [sys.executable, "-m", "qat.jobs.stages.measured_export", str(folder / "model"), scheme, str(target)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunError(f"the export failed: {reason}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["export_bytes"] = sum(path.stat().st_size for path in target.iterdir())
    shutil.rmtree(target)
    return found


def _report(options: Options, size: int, rounds: list[dict[str, Any]]) -> None:
    """Print the table, and write the numbers where they are wanted."""
    ratios = [found["seconds"] / found["copy_seconds"] for found in rounds]
    result = {
        "model_bytes": size,
        "scheme": options.scheme,
        "export_to_copy_time": median(ratios),
        "peak_memory_bytes": max(found["peak_memory_bytes"] for found in rounds),
        "packing_bytes_per_second": max(found["packing_bytes_per_second"] for found in rounds),
        "rounds": rounds,
        "environment": environment().model_dump(),
    }
    table = plain_table(
        f"{human_bytes(size)} of bfloat16 to {options.scheme}, compressed-tensors",
        "ratio: export / copy; packing: of 16-bit weights, one core",
    )
    for heading in ("round", "copy", "export", "ratio", "processor", "memory", "packing"):
        table.add_column(heading, justify="right", no_wrap=True)
    for number, (found, ratio) in enumerate(zip(rounds, ratios, strict=True), start=1):
        table.add_row(
            str(number),
            f"{found['copy_seconds']:.1f} s",
            f"{found['seconds']:.1f} s",
            f"{ratio:.2f}",
            f"{found['processor_seconds']:.1f} s",
            human_bytes(found["peak_memory_bytes"]),
            f"{human_bytes(int(found['packing_bytes_per_second']))}/s",
        )
    show(table)
    if options.json is not None:
        Path(options.json).write_text(json.dumps(result, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        say(f"numbers: {options.json}")
