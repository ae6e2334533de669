"""Any engine in a process of its own: a crash is an error, memory is measured, and nothing of it stays behind."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import qat
from qat.engines.base import Engine
from qat.engines.remote import Launch, Remote
from qat.errors import InputError

_PACKAGE = "qat.engines."
TIME_LIMIT = 3600.0
"""Seconds that an engine of our own environment may take for an answer; a foreign one has its own option."""


class Isolated(Remote):
    """The engine that a config names, in a worker process.

    An engine of this environment is hosted by :mod:`qat.engines.worker`; one of its own environment has a worker
    anyway.

    Args:
        config: a component of ``configs/engine``: ``_target_`` and options.
        time_limit: seconds that loading, and every later question, may take; None: the engine's own limit.

    Raises:
        InputError: no such engine.

    Example:
        >>> with Isolated({"_target_": "qat.engines.transformers.TransformersEngine"}) as engine:
        ...     engine.load(Path("exports/compressed_tensors"))
        ...     engine.continue_greedily([1, 2, 3], 8)
    """

    def __init__(self, config: Mapping[str, Any], time_limit: float | None = None) -> None:
        self._config = dict(config)
        self._engine = build(config)
        limit = self._engine.time_limit if isinstance(self._engine, Remote) else TIME_LIMIT
        super().__init__(limit if time_limit is None else time_limit)
        self.formats, self.normalised = self._engine.formats, self._engine.normalised
        self.own_losses = not isinstance(self._engine, Remote) or self._engine.own_losses
        self.own_weights = not isinstance(self._engine, Remote) or self._engine.own_weights

    def missing(self) -> str | None:
        """See the base class."""
        return self._engine.missing()

    def launch(self, device: str) -> Launch:
        """See the base class."""
        if isinstance(self._engine, Remote):
            return self._engine.launch(device)
        module = str(self._config["_target_"]).split(".")[-2]
        command = (sys.executable, "-m", "qat.engines.worker")
        # The worker imports the qat that runs here, whatever is installed.
        paths = [str(Path(qat.__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        return Launch(module, command, environment, {"config": self._config, "device": device})


def build(config: Mapping[str, Any]) -> Engine:
    """The engine that a component of ``configs/engine`` names, not loaded.

    Raises:
        InputError: it names something else.
    """
    options = dict(config)
    target = str(options.pop("_target_", ""))
    module, _, name = target.rpartition(".")
    if not module.startswith(_PACKAGE):
        raise InputError(f"_target_={target!r} is not an engine of {_PACKAGE[:-1]}")
    made = getattr(importlib.import_module(module), name)(**options)
    assert isinstance(made, Engine)
    return made
