"""The target ``groq``: the routes to Groq's hosts and to programs written for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from rich.console import Console

from qat.deploy.base import Source, Target
from qat.deploy.checks import Check, Preflight, Rule
from qat.deploy.groq import adapter, lora_rules, sources
from qat.deploy.pushed import alone
from qat.errors import InputError

Route = Literal["lora", "onnx", "api", "weights"]
ONNX = "onnx"
HOW_TO = "SERVE.md"
_MARKS: dict[Route, tuple[str, ...]] = {"lora": (adapter.ARCHIVE, adapter.CONFIG), "onnx": (ONNX,), "api": (HOW_TO,)}
"""What a folder of each route has one of."""
_NOT_PUSHED = {
    "onnx": "Groq has no service that takes a graph: compile it with GroqFlow where you have Groq's software",
    "api": "nothing is uploaded on this route: qat serve is the host; see {how_to}",
}
_SERVE = """# {name} behind Groq's API

A program written with the groq SDK runs unchanged against this model with another base URL:

    qat serve run=../.. engine=transformers      # or llama_cpp, vllm; chat_template=plain for a base model

    from groq import Groq
    client = Groq(base_url="http://127.0.0.1:8000", api_key="any")

Nothing of it runs at Groq: the integers are served by the engine that you pick, on the machine where you start it.
"""


@dataclass(frozen=True)
class Groq(Target):
    """GroqCloud takes LoRA adapters, GroqRack static graphs, and no document says that it takes whole models.

    Args:
        route: ``lora``: an adapter for GroqCloud; ``onnx``: a graph for GroqFlow; ``api``: Groq's API in front of an
            engine of your own; ``weights``: refused, with these three.
        adapter: folder that peft wrote, for ``lora``.
        base_model: Groq's name of the model that the adapter was trained on.
        adapter_name: what the adapter is registered as; None: the name of its folder.
        exact: refuse an adapter whose values are not all float16 already, instead of rounding them to nearest.
        batch: rows of the graph's input, for ``onnx``.
        sequence: tokens of a row.
        base_url: of Groq's API.

    Raises:
        InputError: ``route: weights``, an option without its route, or a ``base_url`` that is none.
    """

    name: ClassVar[str] = "groq"
    needed: ClassVar[Mapping[str, str]] = {"base_model": "<name at Groq>"}

    route: Route = "api"
    adapter: str | None = None
    base_model: str | None = None
    adapter_name: str | None = None
    exact: bool = False
    batch: int = 1
    sequence: int = 128
    base_url: str = "https://api.groq.com"

    def __post_init__(self) -> None:
        if self.route == "weights":
            raise InputError(
                "no document of Groq's says that it hosts weights of your own; what there is: target.route=lora (an "
                "adapter, enterprise accounts), target.route=onnx (a graph for GroqRack), target.route=api (its API in "
                "front of an engine of yours)"
            )
        if self.adapter is not None and self.route != "lora":
            raise InputError(f"target.adapter is for target.route=lora, not {self.route}")
        if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", self.base_url):
            raise InputError("target.base_url is no address of an API; write https://<host>, without user or password")

    @property
    def needs_run(self) -> bool:
        """See the base class: an adapter is a folder of its own."""
        return self.route != "lora"

    @property
    def pushes(self) -> bool:
        """See the base class: GroqCloud takes adapters."""
        return self.route == "lora"

    @property
    def lacking(self) -> tuple[str, ...]:
        """See the base class: a registration names its base."""
        return super().lacking if self.pushes else ()

    def check_options(self, action: str) -> None:
        """See the base class: what a push needs, and the adapter that is to be packed."""
        super().check_options(action)
        if action == "prepare" and self.route == "lora" and self.adapter is None:
            raise InputError("target.route=lora packs an adapter; name its peft folder with target.adapter=<folder>")

    def prepare(self, source: Source | None, folder: Path) -> None:
        """Write ``adapter.zip``, ``onnx/`` or ``SERVE.md``."""
        if self.route == "lora":
            self.check_options("prepare")
            assert self.adapter is not None
            packed = adapter.pack(adapter.read(Path(self.adapter)), self.exact)
            (folder / adapter.ARCHIVE).write_bytes(packed)
            return
        assert source is not None
        if self.route == "onnx":
            from qat.export.onnx.exporter import OnnxExporter  # needs the extra `onnx`

            exporter = OnnxExporter(static=True, batch=self.batch, sequence=self.sequence)
            exporter.write(source.checkpoint, folder / ONNX, source.tokenizer)
        else:
            (folder / HOW_TO).write_text(_SERVE.format(name=source.name), encoding="utf-8")

    def preflight(self, folder: Path) -> Preflight:
        """The rules of the route, see :mod:`~qat.deploy.groq.lora_rules` and :mod:`~qat.deploy.groq.onnx_rules`."""
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder; make it with qat deploy target=groq run=<run folder>")
        self._check_route(folder)
        if self.route == "lora":
            checks = lora_rules.check(folder, self.base_model)
        elif self.route == "onnx":
            checks = self._graph_checks(folder)
        else:
            dialect = Rule(
                "groq.A1.dialect", "Groq's API", "a gateway that speaks it, in front of an engine", sources.API
            )
            checks = (dialect.passed("qat serve: tested with the groq SDK, see docs/serving.md"),)
        return Preflight(target=self.name, folder=str(folder), checks=checks)

    def push(self, folder: Path, log: Console, dry_run: bool) -> None:
        """Upload and register the adapter; the other routes have nowhere to push to."""
        self._check_route(folder)
        if self.route != "lora":
            raise InputError(_NOT_PUSHED[self.route].format(how_to=folder / HOW_TO))
        if self.base_model is None:
            raise InputError("say which model the adapter was trained on: target.base_model=<Groq's name of it>")
        from qat.deploy.groq import push  # needs the extra `deploy`

        packed = folder / adapter.ARCHIVE
        with alone(folder, dry_run):
            archive = packed.read_bytes() if packed.is_file() else adapter.pack(adapter.read(folder), self.exact)
            push.push(
                folder,
                archive,
                base_url=self.base_url.rstrip("/"),
                base_model=self.base_model,
                name=self.adapter_name or Path(self.adapter or folder).resolve().name,
                log=log,
                dry_run=dry_run,
            )

    def delete(self, folder: Path, log: Console, dry_run: bool) -> None:
        """Remove the registration and the file."""
        self._check_route(folder)
        if self.route != "lora":
            raise InputError(_NOT_PUSHED[self.route].format(how_to=folder / HOW_TO))
        from qat.deploy.groq import push

        with alone(folder, dry_run):
            push.delete(folder, base_url=self.base_url.rstrip("/"), log=log, dry_run=dry_run)

    def _check_route(self, folder: Path) -> None:
        """Each route writes something else, into one place of a run."""
        made = [route for route, marks in _MARKS.items() if any((folder / mark).exists() for mark in marks)]
        if made and self.route not in made:
            raise InputError(
                f"{folder} was prepared with target.route={made[0]}, not {self.route}; give target.route={made[0]}, or "
                f"prepare another folder with target.route={self.route}"
            )

    def _graph_checks(self, folder: Path) -> tuple[Check, ...]:
        from qat.deploy.groq import onnx_rules  # needs the extra `onnx`

        folder = folder / ONNX if (folder / ONNX).is_dir() else folder
        graph = onnx_rules.Subject(folder / onnx_rules.GRAPH)
        return tuple(check(graph) for check in onnx_rules.RULES)
