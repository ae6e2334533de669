"""Requests that really happened, from a CSV file."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path

import numpy as np

from qat.errors import InputError, nearest
from qat.plan.requests import Requests
from qat.plan.traffic.base import Traffic

COLUMNS = ("time", "prompt_tokens", "output_tokens")


@dataclass(frozen=True, kw_only=True)
class Trace(Traffic):
    """A CSV file with the header ``time,prompt_tokens,output_tokens`` (in any order; other columns are ignored).

    ``time`` is in seconds from any origin, such as a Unix time; the first request arrives at its distance from
    ``origin``. Lines need not be in order. Requests after the simulated time are left out, and nothing is repeated:
    plan as many days as the trace has.

    Args:
        file: the CSV file, in UTF-8.
        origin: the ``time`` at which the simulation begins; null: that of the earliest request.
    """

    file: str
    origin: float | None = None

    def expected(self, seconds: float, seed: int) -> float:
        return float(np.sum(self._all.arrival < seconds))

    def requests(self, seconds: float, share: float, seed: int) -> Requests:
        inside = self._all.take(self._all.arrival < seconds)
        if not len(inside):
            raise InputError(f"{self.file} has no request in the first {seconds:g} s; give more days or another origin")
        return inside.take(np.random.default_rng([seed, 1]).random(len(inside)) < share)

    @cached_property
    def _all(self) -> Requests:
        rows = _read(Path(self.file))
        table = np.array(rows, dtype=np.float64)
        table = table[np.argsort(table[:, 0], kind="stable")]
        origin = table[0, 0] if self.origin is None else self.origin
        if origin > table[0, 0]:
            raise InputError(f"traffic.origin={origin:g} is after the first request of {self.file}, at {table[0, 0]:g}")
        return Requests(table[:, 0] - origin, table[:, 1].astype(np.int64), table[:, 2].astype(np.int64))


def _read(path: Path) -> list[tuple[float, int, int]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            places = _places(next(reader, []), path)
            rows = [_row(row, places, f"{path}:{reader.line_num}") for row in reader if row]
    except OSError as error:
        raise InputError(f"traffic.file={path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV file in UTF-8: {error}") from error
    if not rows:
        raise InputError(f"{path} has no request after its header; give at least one line")
    return rows


def _places(header: list[str], path: Path) -> list[int]:
    names = [name.strip() for name in header]
    for column in COLUMNS:
        if names.count(column) != 1:
            raise InputError(
                f"{path}:1: the header {','.join(names)!r} must name {', '.join(COLUMNS)} once each"
                f"{nearest(column, names) if column not in names else ''}"
            )
    return [names.index(column) for column in COLUMNS]


def _row(row: list[str], places: list[int], where: str) -> tuple[float, int, int]:
    if len(row) <= max(places):
        raise InputError(f"{where}: {','.join(row)!r} has {len(row)} fields; the header asks for {max(places) + 1}")
    time, prompt, output = (row[place].strip() for place in places)
    try:
        seconds = float(time)
    except ValueError:
        seconds = float("nan")
    if not isfinite(seconds):
        raise InputError(f"{where}: time={time!r} is not a number of seconds")
    return seconds, _tokens(prompt, "prompt_tokens", where), _tokens(output, "output_tokens", where)


def _tokens(text: str, column: str, where: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise InputError(f"{where}: {column}={text!r} must be a whole number of at least 1")
    return int(text)
