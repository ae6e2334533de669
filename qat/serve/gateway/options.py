"""What a user sets of the gateway."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field

from qat.errors import InputError


@dataclass(frozen=True)
class Gateway:
    """Options of the gateway, checked as a whole.

    Args:
        host: address to listen on. Any other than this machine's own loopback takes a key.
        port: 0: any free one.
        aliases: further names of the model, such as the one that a program written for Groq has in it.
        key_variable: environment variable that holds the API key; unset: clients need none.
        max_request_bytes: of a request's body; larger ones get 413.
        time_limit: seconds that a request may take, waiting included.
        max_concurrent: requests that the engine works on at once.
        max_waiting: requests that wait for it; more get 429.
        requests_per_day: refilled evenly over the day; None: no limit.
        tokens_per_minute: of prompts and answers, refilled evenly over the minute; None: no limit.
        shutdown_seconds: that running requests get to finish at the end.
        start_seconds: that the engine's server may take to load the model.

    Raises:
        InputError: a number that makes no sense.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    aliases: list[str] = field(default_factory=list)
    key_variable: str = "QAT_SERVE_API_KEY"
    max_request_bytes: int = 4 << 20
    time_limit: float = 600.0
    max_concurrent: int = 8
    max_waiting: int = 32
    requests_per_day: int | None = None
    tokens_per_minute: int | None = None
    shutdown_seconds: float = 30.0
    start_seconds: float = 600.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InputError(f"gateway.port={self.port} is no port; give 1 to 65535, or 0 for any free one")
        for option in ("max_request_bytes", "time_limit", "max_concurrent", "start_seconds"):
            if not getattr(self, option) > 0:
                raise InputError(f"gateway.{option}={getattr(self, option)} is not above 0")
        for option in ("max_waiting", "shutdown_seconds"):
            if not getattr(self, option) >= 0:
                raise InputError(f"gateway.{option}={getattr(self, option)} is below 0")
        for option in ("requests_per_day", "tokens_per_minute"):
            if (limit := getattr(self, option)) is not None and limit <= 0:
                raise InputError(f"gateway.{option}={limit} is not above 0; null: no limit")

    @property
    def loopback(self) -> bool:
        """Whether only programs of this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def key(self) -> str | None:
        """The API key from the environment; None if clients need none.

        Raises:
            InputError: it is empty, or not ASCII, or absent where other machines can reach the gateway.
        """
        key = os.environ.get(self.key_variable)
        if key is None:
            if not self.loopback:
                raise InputError(
                    f"gateway.host={self.host} can be reached from other machines, which takes an API key: set the "
                    f"environment variable {self.key_variable}, or listen on 127.0.0.1"
                )
            return None
        if not key.strip():
            unset = "unset it: clients then need no key" if self.loopback else "set it to the key that clients send"
            raise InputError(f"the environment variable {self.key_variable} is empty; {unset}")
        if not key.isascii() or not key.isprintable():
            raise InputError(f"{self.key_variable} has characters that no HTTP header can carry; set another")
        return key
