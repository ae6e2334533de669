"""The load test finds what it looks for."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from qat.errors import InputError


@pytest.fixture(scope="module")
def load_test(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("load_test", root / "scripts" / "load_test.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["load_test"] = module
    spec.loader.exec_module(module)
    return module


def token(name: str, index: int) -> str:
    return "data: " + json.dumps({"choices": [{"delta": {"content": f"{name} {index} 0;"}}]})


@pytest.mark.parametrize(
    ("lines", "lost", "mixed"),
    [
        ([token("a", 0), token("a", 1), "data: [DONE]"], False, False),
        ([token("a", 0), "data: [DONE]"], True, False),
        ([token("a", 0), token("a", 1)], True, False),
        ([token("a", 0), token("b", 1), "data: [DONE]"], False, True),
        ([token("a", 1), token("a", 0), "data: [DONE]"], False, True),
        ([token("a", 0), token("a", 1), token("a", 2), "data: [DONE]"], True, False),
    ],
)
def test_lost_and_mixed_streams(load_test, lines, lost, mixed) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + "\n\n".join([*lines, ""]).encode())
        await writer.drain()
        writer.close()

    async def scenario() -> tuple[list[float], bool, bool]:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            return await load_test.stream(server.sockets[0].getsockname()[1], "/", "a", 0.0, 2)

    assert asyncio.run(scenario())[1:] == (lost, mixed)


def result(load_test, **changes):
    quantiles = {"median": 1.0, "p95": 2.0, "p99": 3.0}
    one = load_test.Round(way="gateway", tokens=1, lost=0, mixed=0, latency_ms=quantiles)
    machine = {"python": "3", "platform": "p", "cpus": 2, "versions": {}}
    fields = {"command": "c", "clients": 1, "rate": 1.0, "seconds": 1.0, "together": False, "added_ms": quantiles}
    return load_test.Result(**fields | {"rounds": [one], "environment": machine} | changes)


def test_problems(load_test) -> None:
    assert result(load_test).problems == []
    lossy = load_test.Round(way="gateway", tokens=1, lost=2, mixed=1, latency_ms={})
    assert result(load_test, rounds=[lossy]).problems == ["gateway: 2 streams lost", "gateway: 1 streams mixed"]
    slow = {"median": 2.1, "p95": 0.0, "p99": 0.0}
    assert "above 2" in result(load_test, added_ms=slow).problems[0]
    assert result(load_test, added_ms=slow, together=True).problems == []
    assert "lost" in result(load_test, rounds=[lossy], together=True).problems[0]


@pytest.mark.parametrize("together", [False, True])
def test_the_page_has_its_place(load_test, root: Path, together: bool) -> None:
    page = (root / "docs" / "serving.md").read_text()
    made = result(load_test, together=together)
    before, after = page, load_test.insert(page, load_test.markdown(made), made.name)
    assert "median +1.00 ms" in after and before.partition("## Measured")[0] == after.partition("## Measured")[0]
    with pytest.raises(InputError, match=f"begin: scripts/load_test.py {made.name} -->"):
        load_test.insert("", "", made.name)
