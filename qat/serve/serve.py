"""An engine's server and the gateway in front of it, until a signal ends both."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from qat.engines.serving import ServerLaunch
from qat.errors import RunError
from qat.serve.gateway.app import BASE, build_app
from qat.serve.gateway.options import Gateway
from qat.serve.gateway.server import ended_by_signals, listen, server, url
from qat.serve.process import EngineServer, free_port

_ANY_KEY = '"any"'


def serve(launch: Callable[[int], ServerLaunch], gateway: Gateway, name: str, engine: str, console: Console) -> None:
    """Serve until SIGINT or SIGTERM; requests that run may finish then, and the engine ends.

    Args:
        launch: how the engine's server is started, given the port to listen on.
        gateway: options.
        name: what clients call the model.
        engine: name of the engine, for messages.
        console: where the address and an example go.

    Raises:
        InputError: the address is taken, or takes a key that is not there.
        RunError: the engine's server did not start, or ended while it was needed.
    """
    key = gateway.key()
    with listen(gateway.host, gateway.port) as bound:
        port = free_port()
        launched = launch(port)
        with EngineServer(launched, port, engine) as running:
            running.wait_until_healthy(gateway.start_seconds, console)
            app = build_app(
                running.url,
                gateway,
                model=launched.model,
                name=name,
                refuses=launched.refuses,
                health=launched.health,
                key=key,
                engine_key=running.key,
                context=launched.context,
                count=launched.count,
            )
            front = server(app, gateway)
            died: list[RunError] = []

            def watch() -> None:
                error = running.wait()
                if not front.should_exit:
                    died.append(error)
                    front.should_exit = True

            threading.Thread(target=watch, daemon=True).start()
            _announce(console, gateway, url(bound), name, None if key is None else gateway.key_variable)
            with ended_by_signals(front):
                front.run(sockets=[bound])
            if died:
                raise died[0]


def _announce(console: Console, gateway: Gateway, address: str, name: str, key_variable: str | None) -> None:
    if not gateway.loopback:
        console.print(
            f"open to the network: gateway.host={gateway.host} takes requests of other machines", markup=False
        )
    console.print(snippet(address, name, key_variable), soft_wrap=True)  # lines that can be pasted


def snippet(address: str, name: str, key_variable: str | None) -> str:
    """Where the gateway is, and two programs that ask it, in rich's markup.

    Args:
        address: of the gateway.
        name: what clients call the model.
        key_variable: environment variable that holds the key; None: any key will do.
    """
    key = _ANY_KEY if key_variable is None else f'os.environ["{key_variable}"]'
    imports = "" if key_variable is None else "import os\n\n"
    ask = f'client.chat.completions.create(model="{name}", messages=[{{"role": "user", "content": "Hello"}}])'
    text = f"""{imports}from groq import Groq

client = Groq(base_url="{address}", api_key={key})
print({ask})

{imports}from openai import OpenAI

client = OpenAI(base_url="{address}{BASE}", api_key={key})
print({ask})
"""
    return f"[bold]{escape(name)}[/] on [bold]{address}{BASE}[/]; ctrl-c ends it\n\n{escape(text)}"
