from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from qat.deploy.base import Source
from qat.deploy.groq.adapter import ARCHIVE
from qat.deploy.groq.target import Groq
from qat.errors import InputError


def test_whole_weights_are_refused_with_the_routes_there_are() -> None:
    with pytest.raises(InputError, match=r"route=lora.*route=onnx.*route=api"):
        Groq(route="weights")


def test_an_adapter_is_packed_and_ready(adapter: Callable[..., Path], source: Source, tmp_path: Path) -> None:
    target = Groq(route="lora", adapter=str(adapter()), base_model="base-1")
    out = tmp_path / "out"
    out.mkdir()
    target.prepare(source, out)
    assert [path.name for path in out.iterdir()] == [ARCHIVE]
    assert target.preflight(out).failed == ()


def test_a_graph_is_made_and_never_called_compiled(source: Source, tmp_path: Path) -> None:
    target = Groq(route="onnx", sequence=8)
    target.prepare(source, tmp_path)
    preflight = target.preflight(tmp_path)
    assert preflight.failed == ()
    assert preflight.verdict == "NOT PROVEN for groq: 1 not run, 7 passed"


def test_the_api_route_says_how_to_serve(source: Source, tmp_path: Path) -> None:
    target = Groq()
    target.prepare(source, tmp_path)
    assert "qat serve run=../.. engine=transformers" in (tmp_path / "SERVE.md").read_text()
    assert target.preflight(tmp_path).verdict == "READY for groq: 1 passed"


@pytest.mark.parametrize("action", ["push", "delete"])
@pytest.mark.parametrize(
    ("route", "said"), [("api", "qat serve is the host"), ("onnx", "no service that takes a graph")]
)
def test_only_adapters_are_pushed(action: str, route: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        getattr(Groq(route=route), action)(tmp_path, Console(file=StringIO()), True)


def test_options_of_another_route_are_refused(source: Source, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"target\.adapter is for target\.route=lora, not api"):
        Groq(adapter="a")
    with pytest.raises(InputError, match=r"name its peft folder with target\.adapter=<folder>"):
        Groq(route="lora").prepare(source, tmp_path)


def test_without_a_base_nothing_is_proven(adapter: Callable[..., Path], tmp_path: Path) -> None:
    Groq(route="lora", adapter=str(adapter())).prepare(None, tmp_path)
    preflight = Groq(route="lora").preflight(tmp_path)
    assert preflight.verdict.startswith("NOT PROVEN for groq")
    assert [check.rule for check in preflight.of("not_run")] == ["groq.L8.base"]


@pytest.mark.parametrize(
    ("made", "asked", "file"),
    [("lora", "api", ARCHIVE), ("lora", "onnx", "adapter_config.json"), ("api", "lora", "SERVE.md")],
)
def test_a_folder_of_another_route_is_refused(made: Any, asked: Any, file: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(b"")
    target = Groq(route=asked, base_model="base-1")
    steps = (lambda: target.preflight(tmp_path), lambda: target.push(tmp_path, Console(), True))
    for step in (*steps, lambda: target.delete(tmp_path, Console(), True)):
        with pytest.raises(InputError, match=f"prepared with target.route={made}, not {asked}; give"):
            step()


def test_a_push_wants_a_base() -> None:
    assert Groq().next_words == ()
    words = ("target.route=lora", "target.adapter=a", "'target.base_model=\"<name at Groq>\"'")
    assert Groq(route="lora", adapter="a").next_words == words
    with pytest.raises(InputError, match=f"push to groq needs more options; add: {words[-1]}$"):
        Groq(route="lora").check_options("push")


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        Groq(route="lora").preflight(tmp_path / "absent")


def test_a_folder_without_a_graph_fails_its_rules(tmp_path: Path) -> None:
    assert "groq.O1.checker" in {check.rule for check in Groq(route="onnx").preflight(tmp_path).failed}
