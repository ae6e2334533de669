"""Tokens and times of one request."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_TOKEN_DETAILS = ("prompt_tokens_details", "completion_tokens_details")


@dataclass
class Usage:
    """Counts a request's tokens and its time. Pure: the clock is handed in.

    Attributes:
        expected: tokens of the prompt as the gateway counts them; 0: it does not.
        queue_time: seconds that it waited in the gateway.
        prompt_tokens: as the engine counts them, else ``expected``; 0: nothing was heard of the engine.
        completion_tokens: as the engine counts them; else the pieces of text that came.
    """

    clock: Callable[[], float] = time.monotonic
    expected: int = 0
    started: float = 0.0
    queue_time: float = 0.0
    first: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    counted: bool = False
    details: dict[str, Any] = field(default_factory=dict)

    def begin(self, queue_time: float) -> None:
        """The engine is asked now."""
        self.queue_time, self.started = queue_time, self.clock()

    def saw_piece(self) -> None:
        """A piece of the answer came."""
        if self.first is None:
            self.first = self.clock()
        if not self.counted:
            self.completion_tokens += 1

    def take(self, usage: Any) -> None:
        """What the engine says of its usage with an event: its own count, if it is one."""
        if not self.counted:
            self.prompt_tokens = self.expected
        if not isinstance(usage, dict):
            return
        counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if all(isinstance(count, int) for count in counts):
            self.prompt_tokens, self.completion_tokens = counts  # type: ignore[assignment]
            self.details = {name: usage[name] for name in _TOKEN_DETAILS if isinstance(usage.get(name), dict)}
            self.counted = True

    @property
    def total_tokens(self) -> int:
        """Prompt and answer."""
        return self.prompt_tokens + self.completion_tokens

    def report(self) -> dict[str, Any]:
        """Groq's ``usage``. Where no piece of text came, all of the time is the prompt's."""
        total = self.clock() - self.started
        prompt = total if self.first is None else self.first - self.started
        times = {
            "queue_time": self.queue_time,
            "prompt_time": prompt,
            "completion_time": total - prompt,
            "total_time": total,
        }
        counts = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
        }
        return counts | {name: round(seconds, 9) for name, seconds in times.items()} | self.details
