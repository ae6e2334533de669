"""An engine whose work is done by a worker process."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from qat.engines.base import Engine, NotAvailable, not_loaded
from qat.engines.process import WorkerProcess
from qat.errors import InputError, RunError


@dataclass(frozen=True)
class Launch:
    """How a worker is started and told to load.

    Attributes:
        name: the engine, in messages.
        command: the program.
        environment: variables besides those of this process.
        options: arguments of its method ``load``, besides the folder of the export.
    """

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


class Remote(Engine):
    """Starts a worker at :meth:`load` and asks it; a new export gets a new worker.

    Whatever happens in the worker, a crash or a hang, is an error here with its last words.

    Args:
        time_limit: seconds that loading, and every later question, may take.
    """

    own_losses: bool = False
    """Whether the worker computes token losses itself; else they come from its logits."""

    own_weights: bool = False
    """Whether the worker can tell what weights it computes with."""

    def __init__(self, time_limit: float) -> None:
        if time_limit <= 0:
            raise InputError(f"time_limit is {time_limit:g}; give the seconds that an answer may take")
        self.time_limit = time_limit
        self._worker: WorkerProcess | None = None
        self._description = ""

    @abstractmethod
    def launch(self, device: str) -> Launch:
        """What :meth:`load` starts, to compute on ``device`` if it has a choice."""

    @property
    def description(self) -> str:
        """See the base class."""
        self._running()
        return self._description

    @property
    def peak_memory_bytes(self) -> int | None:
        """Largest resident memory of the worker up to its last answer, libraries included."""
        return self._running().peak_memory_bytes

    def load(self, directory: Path, device: torch.device | str = "cpu") -> None:
        """See the base class; every failure of the worker here is the engine's refusal of the export.

        Raises:
            NotAvailable: see :meth:`missing`; or it lacks a kernel that this export needs.
            InputError: the engine cannot load it, in its own words.
        """
        if (absent := self.missing()) is not None:
            raise NotAvailable(absent)
        self.close()
        self.directory = Path(directory).resolve()
        launch = self.launch(str(device))
        environment = {"OMP_NUM_THREADS": str(torch.get_num_threads())} | launch.environment
        self._worker = WorkerProcess(launch.name, launch.command, environment)
        try:
            loaded = self.ask("load", directory=str(self.directory), **launch.options)
        except (InputError, RunError) as error:
            self.close()
            kind = type(error) if isinstance(error, InputError) else InputError
            named = str(self.directory) in str(error)  # an engine of ours says it all itself
            raise kind(str(error) if named else f"{launch.name} cannot load {directory}: {error}") from error
        self._description = loaded["description"]
        self.dtype, self.task = loaded["dtype"], loaded.get("task", "causal_lm")

    def logits(self, tokens: Tensor) -> Tensor:
        """See the base class; on the CPU."""
        return torch.from_numpy(self.ask("logits", tokens=_numpy(tokens)))

    def token_losses(self, tokens: Tensor) -> Tensor:
        """See the base class; on the CPU."""
        if not self.own_losses:
            return super().token_losses(tokens)
        losses = torch.from_numpy(self.ask("token_losses", tokens=_numpy(tokens)))
        rows, length = tokens.shape
        if losses.shape != (rows, length - 1):
            raise RunError(
                f"{self.description} gives token losses of shape {list(losses.shape)}, not {[rows, length - 1]}"
            )
        return losses

    def weight(self, module: str) -> Tensor | None:
        """See the base class; float32 on the CPU, which holds every engine's dtype exactly."""
        if not self.own_weights:
            return None
        values = self.ask("weight", module=module)
        return None if values is None else torch.from_numpy(values)

    def continue_greedily(self, prompt: list[int], new_tokens: int) -> list[int]:
        """See the base class."""
        self.need_causal_lm("generate")
        made: list[int] = self.ask("continue_greedily", prompt=np.asarray(prompt, np.int64), new_tokens=new_tokens)
        return made

    def ask(self, method: str, **arguments: Any) -> Any:
        """Call a method of the worker with JSON values and numpy arrays.

        Raises:
            InputError: nothing is loaded, or the worker cannot use its input.
            RunError: the worker failed.
        """
        return self._running().call(method, self.time_limit, **arguments)

    def close(self) -> None:
        """End the worker; :meth:`load` starts another."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _running(self) -> WorkerProcess:
        if self._worker is None:
            raise not_loaded()
        return self._worker


def _numpy(tokens: Tensor) -> np.ndarray[Any, np.dtype[np.int64]]:
    return tokens.detach().cpu().to(torch.int64).contiguous().numpy()
