"""Serve a finished run's export on an engine's own server, behind a gateway that speaks Groq's dialect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from qat.config.check import instantiate
from qat.config.hosting import ServeConfig
from qat.config.run_folder import RunFolder
from qat.engines.base import Engine
from qat.engines.chat_template import PLAIN
from qat.engines.serving import ServerLaunch, no_server
from qat.errors import InputError, nearest
from qat.jobs.stages import finished
from qat.jobs.stages.console import say
from qat.serve.gateway.options import Gateway
from qat.serve.serve import serve

ACCEPTS = ("run",)


def main(settings: ServeConfig) -> None:
    """Serve until a signal.

    Raises:
        InputError: what is asked for does not fit together, or the engine cannot serve this export.
        RunError: the engine's server did not start, or ended.
    """
    if settings.run is None:
        raise InputError("qat serve works on a finished run; name it with run=<run folder>")
    if settings.gateway is None:
        raise InputError("qat serve needs a gateway; leave '~gateway' out")
    name, engine = _engine(settings.engine)
    folder = finished.take_up("serve", settings.run)
    checkpoint = finished.checkpoint(folder)
    if checkpoint.task != "causal_lm":
        raise InputError(f"{folder.path} is a {checkpoint.task}: only causal language models answer chats")
    gateway: Gateway = instantiate(settings.gateway, "gateway")
    directory = _export(folder, settings.format, name, engine)
    if (absent := engine.missing()) is not None:
        raise InputError(f"engine {name}: {absent}")
    template = _template(settings.chat_template)
    served_as = settings.name or finished.name_of(folder)

    def launch(port: int) -> ServerLaunch:
        launched = engine.server(directory, port, template)
        say(f"{directory} on {name}")  # only now: what cannot be served has been refused
        return launched

    serve(launch, gateway, served_as, name, Console())


def _engine(picked: Mapping[str, Any]) -> tuple[str, Engine]:
    if len(picked) != 1:
        given = f"engine=[{','.join(picked)}] names {len(picked)}"
        raise InputError(f"one engine serves, and {given}; pick one, as in engine=transformers")
    ((name, node),) = picked.items()
    engine: Engine = instantiate(node, f"engine.{name}")
    if not engine.serves:
        raise no_server(f"engine={name}")
    return name, engine


def _export(folder: RunFolder, picked: str | None, name: str, engine: Engine) -> Path:
    """The export that is served: ``picked``, or the only one that the engine loads."""
    there = sorted(path.name for path in folder.exports.glob("*") if path.is_dir())
    loads = sorted(engine.formats)
    if picked is not None and picked not in loads:
        raise InputError(f"engine {name} loads no format {picked}{nearest(picked, loads)}; it loads {', '.join(loads)}")
    found = [export for export in there if export in loads and picked in (None, export)]
    if not found:
        lacks = f"no export {picked}" if picked else f"no export that engine {name} loads ({', '.join(loads)})"
        has = f"it has {', '.join(there)}" if there else "it has none"
        raise InputError(
            f"{folder.path} has {lacks}: {has}; write one with: qat export run={folder.path} "
            f"export=[{picked or loads[0]}]"
        )
    if len(found) > 1:
        raise InputError(f"{folder.path} has several exports for engine {name}; pick one: format=<{'|'.join(found)}>")
    return folder.exports / found[0]


def _template(given: str | None) -> str | None:
    """A file's name counts from where the user is; the engine's server works elsewhere."""
    return given if given in (None, PLAIN) else str(Path(given).expanduser().absolute())
