from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from rich.console import Console
from scripted_engine import LIMIT, comes_true

from qat.engines.serving import ServerLaunch
from qat.errors import InputError, RunError
from qat.serve.process import EngineServer, free_port

SCRIPT = """
import http.server, os, subprocess, sys, time

port, mode = int(sys.argv[1]), sys.argv[2]
print("reading the weights")
if mode == "die":
    sys.exit("no model today")
if mode == "hang":
    time.sleep(600)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self):
        Handler.asked += 1
        if self.path == "/die":
            print("the last that was heard", flush=True)
            os._exit(3)
        status = {"/well": 200 if Handler.asked > 2 else 503}.get(self.path, 200)
        if self.headers.get("authorization", "") != f"Bearer {os.environ['KEY']}":
            status = 401
        self.send_response(status)
        self.end_headers()
        self.wfile.write(f"{child.pid} {os.getcwd()} {os.environ['COLOUR']}".encode())

http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
QUIET = Console(file=io.StringIO())


@pytest.fixture
def server(tmp_path: Path):
    (tmp_path / "engine.py").write_text(SCRIPT)

    def make(mode: str) -> EngineServer:
        port = free_port()
        command = (sys.executable, str(tmp_path / "engine.py"), str(port), mode)
        launch = ServerLaunch(command, {"COLOUR": "red"}, health="/well", key_variable="KEY")
        return EngineServer(launch, port, "scripted")

    return make


def ask(running: EngineServer, path: str = "/") -> httpx.Response:
    return httpx.get(running.url + path, headers={"authorization": f"Bearer {running.key}"}, trust_env=False)


def is_running(process: int) -> bool:
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False)
    return done.stdout.strip()[:1] not in ("", "Z")


def test_it_is_waited_for_and_ends_with_its_children_and_its_folder(server) -> None:
    with server("serve") as running:
        running.wait_until_healthy(LIMIT, QUIET)
        child, folder, colour = ask(running).text.split()
        assert colour == "red" and is_running(int(child)) and Path(folder).is_dir()
    assert comes_true(lambda: not is_running(int(child)))
    assert not Path(folder).exists()


def test_one_that_dies_at_its_start_says_why(server) -> None:
    with server("die") as running, pytest.raises(RunError, match="scripted ended with exit status 1: no model today"):
        running.wait_until_healthy(LIMIT, QUIET)


def test_one_that_never_answers(server) -> None:
    with server("hang") as running, pytest.raises(RunError, match=r"not ready within 1 seconds.*: reading the weights"):
        running.wait_until_healthy(1.0, QUIET)


def test_one_that_dies_later(server) -> None:
    with server("serve") as running:
        running.wait_until_healthy(LIMIT, QUIET)
        with pytest.raises(httpx.HTTPError):
            ask(running, "/die")
        assert str(running.wait()) == "scripted ended with exit status 3: the last that was heard"


def test_one_that_a_signal_ends(server) -> None:
    with server("hang") as running:
        assert comes_true(lambda: len(psutil.Process().children(recursive=True)) == 2)
        psutil.Process().children(recursive=True)[-1].send_signal(signal.SIGSEGV)
        assert "scripted was ended by SIGSEGV" in str(running.wait())


def test_its_key_is_its_own_and_in_no_list_of_processes(server) -> None:
    with server("serve") as running, server("serve") as other:
        running.wait_until_healthy(LIMIT, QUIET)
        assert running.key != other.key and len(running.key) == 64
        assert httpx.get(running.url, trust_env=False).status_code == 401 and ask(running).status_code == 200
        lines = [word for one in psutil.Process().children(recursive=True) for word in one.cmdline()]
        assert lines and running.key not in " ".join(lines)
    assert EngineServer(ServerLaunch(("a",)), 1, "scripted").key is None


KILLED = """
import io, sys, time
from rich.console import Console
from qat.engines.serving import ServerLaunch
from qat.serve.process import EngineServer

port = int(sys.argv[2])
command = (sys.executable, sys.argv[1], sys.argv[2], "serve")
launch = ServerLaunch(command, {"COLOUR": "red"}, health="/well", key_variable="KEY")
with EngineServer(launch, port, "scripted") as running:
    running.wait_until_healthy(30.0, Console(file=io.StringIO()))
    print(running.key, flush=True)
    time.sleep(600)
"""


def test_it_ends_with_a_parent_that_is_killed(server, tmp_path: Path, root: Path) -> None:
    port = free_port()
    words = [sys.executable, "-c", KILLED, str(tmp_path / "engine.py"), str(port)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        headers = {"authorization": f"Bearer {parent.stdout.readline().strip()}"}
        child, folder, _ = httpx.get(f"http://127.0.0.1:{port}/", headers=headers, trust_env=False).text.split()
        started = psutil.Process(parent.pid).children(recursive=True)
        assert len(started) == 3 and is_running(int(child)) and Path(folder).is_dir()
        parent.kill()
    assert comes_true(lambda: not any(is_running(one.pid) for one in started))
    assert not Path(folder).exists()


def test_a_command_that_does_not_exist() -> None:
    with (
        pytest.raises(InputError, match="scripted cannot be started"),
        EngineServer(ServerLaunch(("/no/such/program",)), 1, "scripted"),
    ):
        pass
