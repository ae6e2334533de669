"""How qat asks a worker process, and how that answers. Used by both sides, so it needs numpy only.

A request is one line of JSON, ``{"method": ..., "arguments": {...}}``, and so is its answer, ``{"result": ...}`` or
``{"error": ..., "kind": ...}``, each on a pipe of its own: what a library prints reaches neither. An array is a
``.npy`` file in the worker's working folder, which is a temporary one of qat's; the line holds its name.

A worker ends when the pipe is closed or its parent is gone, also in the middle of an answer.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


class NotAvailable(Exception):
    """What a worker raises that lacks what the export needs, by no fault of the export; its name goes over the wire."""


class NoLogits(Exception):
    """What a worker raises that gives token losses and no logits of such a model; its name goes over the wire."""


_FILE = "npy"  # key of the object that stands for an array
_WATCH_SECONDS = 0.5


def pack(value: Any, folder: Path) -> Any:
    """``value`` as JSON holds it: every array in it is written to a file in ``folder``."""
    if isinstance(value, np.ndarray):
        handle, name = tempfile.mkstemp(suffix=".npy", dir=folder)
        with os.fdopen(handle, "wb") as file:
            np.save(file, value, allow_pickle=False)
        return {_FILE: Path(name).name}
    if isinstance(value, dict):
        return {key: pack(item, folder) for key, item in value.items()}
    return value


def unpack(value: Any, folder: Path) -> Any:
    """What :func:`pack` was given; the files are removed."""
    if not isinstance(value, dict):
        return value
    if value.keys() == {_FILE}:
        path = folder / Path(value[_FILE]).name
        array = np.load(path, allow_pickle=False)
        path.unlink()
        return array
    return {key: unpack(item, folder) for key, item in value.items()}


def serve(handlers: Mapping[str, Callable[..., Any]]) -> None:
    """Answer requests until there are no more.

    The command line ends in two file descriptors, of the requests and of the answers, and the parent's process id.

    Args:
        handlers: method -> what is called with the arguments of a request.
    """
    requests, answers, parent = (int(word) for word in sys.argv[-3:])
    for descriptor in (requests, answers):
        os.set_inheritable(descriptor, False)  # a process that the engine starts must not keep the pipes open
    folder = Path.cwd()
    threading.Thread(target=_end_with_parent, args=(parent, folder), daemon=True).start()
    with open(requests, "rb") as lines, open(answers, "wb", buffering=0) as out:
        for line in lines:
            out.write(json.dumps(_answer(handlers, json.loads(line), folder)).encode() + b"\n")


def _answer(handlers: Mapping[str, Callable[..., Any]], request: dict[str, Any], folder: Path) -> dict[str, Any]:
    answer: dict[str, Any]
    try:
        arguments = unpack(request["arguments"], folder)
        answer = {"result": pack(handlers[request["method"]](**arguments), folder)}
    except Exception as error:
        traceback.print_exc()
        answer = {"error": _words(error), "kind": type(error).__name__}
    return answer | {"peak_memory_bytes": peak_memory()}


def _words(error: Exception) -> str:
    """The message in one line; with the error's name where it is no sentence (``KeyError: 'x'``)."""
    text = " ".join(str(error).split())
    return text if " " in text else f"{type(error).__name__}: {text}" if text else type(error).__name__


def peak_memory() -> int:
    """Bytes of the largest resident set of this process so far.

    On Linux not from ``getrusage``, whose number starts from that of the process which started this one.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _end_with_parent(parent: int, folder: Path) -> None:
    """Watch: a parent that is killed closes no pipe that a process of its own still holds, and removes no folder."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
