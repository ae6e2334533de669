from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from rich.console import Console
from scripted_engine import LIMIT

from qat.errors import InputError
from qat.serve.gateway.options import Gateway
from qat.serve.gateway.server import listen, url
from qat.serve.serve import _announce, serve, snippet

PROGRAM = """
import sys
from rich.console import Console
from qat.engines.serving import ServerLaunch
from qat.errors import QatError
from qat.serve.gateway.options import Gateway
from qat.serve.serve import serve

ENGINE = '''
import os, sys, uvicorn
sys.path.insert(0, sys.argv[2])
from scripted_engine import Engine
from starlette.responses import Response
from starlette.routing import Route

engine = Engine()
engine.app.router.routes.append(Route("/die", lambda request: os._exit(3)))
engine.app.router.routes.append(Route("/pid", lambda request: Response(str(os.getpid()))))
uvicorn.run(engine.app, port=int(sys.argv[1]), log_level="error")
'''

def launch(port):
    print("engine", port, flush=True)
    command = (sys.executable, "-c", ENGINE, str(port), sys.argv[1])
    return ServerLaunch(command, {"PYTHONPATH": sys.argv[2]}, model="engine/model")

try:
    serve(launch, Gateway(port=0), "tiny", "scripted", Console(width=200, color_system=None))
except QatError as error:
    print(error)
    sys.exit(error.exit_code)
print("the end")
"""


@pytest.fixture
def program(root: Path):
    command = [sys.executable, "-c", PROGRAM, str(root / "tests"), str(root)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    yield started
    if started.poll() is None:
        started.kill()
    started.wait()
    started.stdout.close()


def addresses(program) -> tuple[str, str]:
    """Of the engine and the gateway, as the program prints them."""
    engine = program.stdout.readline().split()[1]
    line = program.stdout.readline()
    while "ctrl-c" not in line:
        line = program.stdout.readline()
    assert line.startswith("tiny on http://127.0.0.1:")
    return f"http://127.0.0.1:{engine}", line.split()[2].removesuffix("/openai/v1;")


def ask(address: str) -> httpx.Response:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "one two"}]}
    return httpx.post(f"{address}/openai/v1/chat/completions", json=body, timeout=LIMIT, trust_env=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_gateway_and_the_engine(program, number) -> None:
    engine, gateway = addresses(program)
    assert ask(gateway).json()["choices"][0]["message"]["content"] == "one two"
    process = int(httpx.get(f"{engine}/pid", trust_env=False).text)
    program.send_signal(number)
    assert program.stdout.read().endswith("the end\n") and program.wait(LIMIT) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_the_engines_end_is_the_servers(program) -> None:
    engine, _ = addresses(program)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{engine}/die", trust_env=False)
    assert "scripted ended with exit status 3" in program.stdout.read() and program.wait(LIMIT) == 1


def test_nothing_is_started_without_a_key_or_a_free_port(monkeypatch) -> None:
    def launch(port: int):
        raise AssertionError("started")

    monkeypatch.delenv("QAT_SERVE_API_KEY", raising=False)
    quiet = Console(file=io.StringIO())
    with pytest.raises(InputError, match="takes an API key"):
        serve(launch, Gateway(host="0.0.0.0", port=0), "tiny", "scripted", quiet)
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(launch, Gateway(port=port), "tiny", "scripted", quiet)


def test_the_address_of_a_socket_on_all_interfaces() -> None:
    with listen("0.0.0.0", 0) as bound:
        assert url(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_the_snippet_never_has_the_key(monkeypatch) -> None:
    monkeypatch.setenv("QAT_SERVE_API_KEY", "secret-of-mine")
    text = snippet("http://127.0.0.1:8000", "tiny", "QAT_SERVE_API_KEY")
    assert "secret-of-mine" not in text and 'os.environ["QAT_SERVE_API_KEY"]' in text
    assert 'api_key="any"' in snippet("http://127.0.0.1:8000", "tiny", None)


@pytest.mark.parametrize(("host", "told"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_programs_are_not_broken_and_an_open_address_is_told(host: str, told: bool) -> None:
    console = Console(width=40, file=io.StringIO(), color_system=None)
    _announce(console, Gateway(host=host), "http://127.0.0.1:8000", "tiny", None)
    text = console.file.getvalue()
    assert '\nclient = Groq(base_url="http://127.0.0.1:8000", api_key="any")\n' in text
    assert ("open to the network: gateway.host=0.0.0.0" in " ".join(text.split())) == told
