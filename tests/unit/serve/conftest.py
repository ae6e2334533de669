"""The gateway in front of a scripted engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from scripted_engine import Engine, serving

from qat.serve.gateway.app import build_app
from qat.serve.gateway.options import Gateway


@pytest.fixture(scope="module")
def engine_address() -> Iterator[tuple[Engine, str]]:
    made = Engine()
    with serving(made.app, Gateway(shutdown_seconds=1)) as (address, _):
        yield made, address


@pytest.fixture
def engine(engine_address: tuple[Engine, str]) -> Engine:
    """The scripted engine as new."""
    made = engine_address[0]
    made.received, made.script, made.answer, made.key, made.health, made.left = [], None, None, None, 200, 0
    made.opened.clear()
    return made


@pytest.fixture
def gateway(engine: Engine, engine_address: tuple[Engine, str]) -> Iterator[Callable[..., str]]:
    """Starts a gateway with options, ``behind`` being what it is told of the engine, and gives its address."""
    with ExitStack() as stack:

        def start(
            key: str | None = None, behind: dict[str, Any] | None = None, upstream: str = "", **options: Any
        ) -> str:
            chosen = Gateway(**{"shutdown_seconds": 1.0, "aliases": ["llama-3.1-8b-instant"], **options})
            place = upstream or engine_address[1]
            app = build_app(place, chosen, model="engine/model", name="tiny", key=key, **behind or {})
            address, start.server = stack.enter_context(serving(app, chosen))  # type: ignore[attr-defined]
            return address

        yield start
        engine.opened.set()
