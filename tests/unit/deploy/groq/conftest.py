"""An adapter that the real peft wrote, and a local fake of the two endpoints that GroqCloud documents for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from support import random_llama

KEY = "gsk_not_a_real_key"


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[..., Path]:
    """``adapter(r=8, **options of LoraConfig)`` is the folder that peft writes; its weights are random."""

    def make(r: int = 8, **options: Any) -> Path:
        model = peft.get_peft_model(
            random_llama(), peft.LoraConfig(r=r, target_modules=["q_proj", "v_proj"], **options)
        )
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        folder = tmp_path / f"adapter{len(list(tmp_path.iterdir()))}"
        model.save_pretrained(folder)
        return folder

    return make


@dataclass
class GroqCloud:
    """What the fake was asked, and how it is to answer."""

    url: str = ""
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    refuse: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    """Path -> the status and the body of a refusal."""

    @property
    def calls(self) -> list[str]:
        """Method and path of what was asked."""
        return [f"{method} {path}" for method, path, _ in self.asked]


@pytest.fixture
def groq_cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[GroqCloud]:
    """A server on the loopback that answers as Groq's reference shows."""
    cloud = GroqCloud()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(cloud))
    cloud.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    monkeypatch.setenv("GROQ_API_KEY", KEY)
    monkeypatch.delenv("GROQ_BASE_URL", raising=False)
    yield cloud
    server.shutdown()
    server.server_close()
    thread.join()


def _handler(cloud: GroqCloud) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/openai/v1/files":
                self._answer(body, {"id": "file_1", "object": "file", "bytes": len(body), "purpose": "fine_tuning"})
            else:
                made = {"id": "ft_1", "fine_tuned_model": "ft:base:org/mine", **json.loads(body)}
                self._answer(body, {"id": "req_1", "object": "object", "data": made})

        def do_DELETE(self) -> None:
            self._answer(b"", {"id": self.path.rpartition("/")[2], "object": "object", "deleted": True})

        def _answer(self, body: bytes, answer: dict[str, Any]) -> None:
            cloud.asked.append((self.command, self.path, body))
            cloud.keys.add(self.headers["authorization"])
            status, answer = cloud.refuse.get(self.path, (200, answer))
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    return Handler
