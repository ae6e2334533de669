"""Server-sent events: the bytes of an engine's stream to the data in them, and back (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from collections.abc import Iterator

DONE = b"[DONE]"


class Decoder:
    """Takes a stream in pieces that are cut anywhere, and gives the data of each event that is whole.

    Event names, ids and comments (which some servers send to keep a connection open) are passed over.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The data of the events that end in ``piece``."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                yield b"\n".join(self._data)
                self._data.clear()

    def end(self) -> Iterator[bytes]:
        """What a stream ends with that lacks its last empty line."""
        return self.feed(b"\n\n")


def event(data: bytes, name: str | None = None) -> bytes:
    """``data``, which has no line break, as an event."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + data + b"\n\n"
