"""The worker process of an engine of our own environment: ``python -m qat.engines.worker``, started by ``Isolated``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qat.engines.base import Engine
from qat.engines.isolated import build
from qat.engines.workers.worker_protocol import serve


class Host:
    """The engine, behind the methods of the protocol."""

    engine: Engine

    def load(self, directory: str, config: dict[str, Any], device: str) -> dict[str, str]:
        """Build the engine of ``config`` and load the export."""
        self.engine = build(config)
        self.engine.load(Path(directory), device)
        return {"description": self.engine.description, "task": self.engine.task, "dtype": self.engine.dtype}

    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """See :class:`~qat.engines.base.Engine`."""
        return self._numpy(self.engine.logits(torch.from_numpy(tokens)))

    def token_losses(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """See :class:`~qat.engines.base.Engine`."""
        return self._numpy(self.engine.token_losses(torch.from_numpy(tokens)))

    def continue_greedily(self, prompt: NDArray[np.int64], new_tokens: int) -> list[int]:
        """See :class:`~qat.engines.base.Engine`."""
        return self.engine.continue_greedily(prompt.tolist(), new_tokens)

    def weight(self, module: str) -> NDArray[np.float32] | None:
        """See :class:`~qat.engines.base.Engine`."""
        weight = self.engine.weight(module)
        return None if weight is None else self._numpy(weight)

    def _numpy(self, tensor: torch.Tensor) -> NDArray[np.float32]:
        result: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
        return result


if __name__ == "__main__":
    host = Host()
    methods = (host.load, host.logits, host.token_losses, host.continue_greedily, host.weight)
    serve({method.__name__: method for method in methods})
