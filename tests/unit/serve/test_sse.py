from __future__ import annotations

import pytest

from qat.serve.gateway.sse import Decoder, event

STREAM = b': ping\r\n\r\ndata: {"a": "\xc3\xbc"}\r\n\r\nevent: x\nid: 3\ndata:b\ndata: c\n\n\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_wherever_the_stream_is_cut(size) -> None:
    decoder, found = Decoder(), []
    for start in range(0, len(STREAM), size):
        found += decoder.feed(STREAM[start : start + size])
    assert found == [b'{"a": "\xc3\xbc"}', b"b\nc", b"[DONE]"]
    assert list(decoder.end()) == []


def test_an_event_without_its_empty_line() -> None:
    decoder = Decoder()
    assert list(decoder.feed(b"data: a")) == [] and list(decoder.end()) == [b"a"]


def test_there_and_back() -> None:
    assert event(b"a") == b"data: a\n\n"
    assert list(Decoder().feed(event(b"a", "error"))) == [b"a"]
