"""Ctrl-C and SIGTERM stop the run at the next optimizer step instead of in its middle."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback


class Interrupt(Callback):
    """Turns the first SIGINT or SIGTERM into a request that is answered where the state is whole.

    A checkpoint in the middle of an accumulation window would lose its gradients, so the window (and a
    validation that is under way) is finished first; then
    :class:`~qat.training.callbacks.checkpoints.Checkpoints` saves and raises :class:`~qat.errors.Interrupted`. A second
    signal of either kind stops at once, without saving.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals; Lightning has set its own handler for SIGTERM by now."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread only: there the caller decides
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._request)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        for handled in self._previous:  # Lightning's own for SIGTERM would wait for the end of the step again
            signal.signal(handled, signal.default_int_handler)
        # Not print: the signal may have come in the middle of one, and Python's streams refuse another.
        os.write(2, b"\nstopping after this step; once more stops at once, without saving\n")

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
