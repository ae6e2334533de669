"""Compare what hosts cost and how fast they answer, by simulating a day of traffic on each."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from qat.checkpoint import QuantizedCheckpoint
from qat.config.check import instantiate
from qat.config.hosting import PlanConfig
from qat.errors import InputError
from qat.jobs.stages import finished
from qat.jobs.stages.console import say, show
from qat.paths import new_folder
from qat.plan.compare import compare
from qat.plan.facts import ModelFacts, Precision
from qat.plan.page import write_page
from qat.plan.table import render

ACCEPTS = ("run",)
OUTPUTS = Path("outputs", "plan")


def main(settings: PlanConfig) -> None:
    """Run the command: a table on the screen, ``plan.json`` and ``index.html`` in a folder.

    Raises:
        InputError: no model is given, or an option that cannot be used.
    """
    facts = _facts(settings)
    traffic = instantiate(settings.traffic, "traffic")
    hostings = {name: instantiate(node, f"pricing.{name}") for name, node in settings.pricing.items()}
    folder = Path(settings.out) if settings.out is not None else OUTPUTS / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    with new_folder(folder) as temporary:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True) as progress:
            bar = progress.add_task("", total=1.0)
            plan = compare(
                facts,
                traffic,
                hostings,
                days=settings.days,
                seed=settings.seed,
                max_requests=settings.max_requests,
                late_after=settings.late_after,
                progress=lambda what, share: progress.update(bar, description=what, completed=share),
            )
        plan.write(temporary / "plan.json")
        write_page(plan, temporary / "index.html")
    show(render(plan))
    say(f"page: {folder / 'index.html'}, numbers: {folder / 'plan.json'}")


def _facts(settings: PlanConfig) -> ModelFacts:
    if settings.run is not None and settings.parameters is not None:
        raise InputError("give one of run= and parameters=, not both")
    if settings.run is None and settings.parameters is None:
        raise InputError("say which model: run=<run folder>, or parameters=8e9 for one that is not there yet")
    if settings.run is None:
        assert settings.parameters is not None
        if settings.parameters < 1 or not settings.parameters.is_integer():
            raise InputError(f"parameters={settings.parameters:g} must be a whole number of 1 or more, as in 8e9")
        return ModelFacts.of_parameters(f"{settings.parameters / 1e9:.3g}B parameters", int(settings.parameters))
    folder = finished.take_up("plan", settings.run)
    return facts_of(finished.name_of(folder), finished.checkpoint(folder))


def facts_of(name: str, checkpoint: QuantizedCheckpoint) -> ModelFacts:
    """Size of a checkpoint at its own precision as it is, and at the others by their bits a weight."""
    parameters = sum(entry.shape.numel() for entry in checkpoint.weights.values())
    parameters += sum(tensor.numel() for tensor in checkpoint.rest_layout.values())
    facts = ModelFacts.of_parameters(name, parameters)
    bits = max((entry.args.num_bits or 16 for entry in checkpoint.weights.values()), default=16)
    own: Precision = "int4" if bits <= 4 else "int8" if bits <= 8 else "float"
    return facts.model_copy(
        update={"bytes": facts.bytes | {own: checkpoint.nbytes}, "kv_bytes_per_token": _kv_bytes(checkpoint.config)}
    )


def _kv_bytes(config: Mapping[str, Any]) -> int | None:
    """Keys and values of one token in 16 bits; None where the config does not say it in the usual words."""
    layers, heads, width = (config.get(key) for key in ("num_hidden_layers", "num_attention_heads", "hidden_size"))
    if not (layers and heads and width):
        return None
    size = config.get("head_dim") or width // heads
    return 2 * 2 * int(layers) * int(config.get("num_key_value_heads") or heads) * int(size)
