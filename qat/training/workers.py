"""A data loader whose workers outlive a signal that reaches every process of a run.

Ctrl-C in a terminal, ``timeout`` and a cluster's end of time signal all processes at once. The main one then finishes
its step and saves, for which it still needs batches; torch's workers would be gone and the run would end in an error.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

_STOPS = (signal.SIGINT, signal.SIGTERM)


class SteadyLoader(DataLoader[dict[str, Tensor]]):
    """A ``DataLoader`` whose workers end when the main process ends them, and on no other SIGINT or SIGTERM.

    Args:
        dataset: what to read.
        options: those of ``DataLoader``, but for ``worker_init_fn``.
    """

    def __init__(self, dataset: Dataset[dict[str, Tensor]], **options: Any) -> None:
        super().__init__(dataset, **options, worker_init_fn=_obey_only_the_parent)

    def __iter__(self) -> Any:
        """Start the workers with both signals blocked, which they inherit: none is hit before it is ready."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _obey_only_the_parent(worker: int) -> None:
    """Ignore SIGINT, and SIGTERM unless the main process sent it, which is how it ends a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_end_with_the_parent, args=(os.getppid(),), daemon=True).start()
        return
    # macOS does not say who sent a signal: leave the group, forget what came so far, and be as torch made it.
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


def _end_with_the_parent(parent: int) -> None:
    """Wait for SIGTERM, which stays blocked in every thread, until it is the parent's."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
