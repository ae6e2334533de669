"""The typed base of the commands that host what was trained: ``configs/{deploy,serve,plan}.yaml`` fill them in.

They train nothing, so they take no recipe: each has the few keys that it reads, and no others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from qat.errors import InputError, nearest

ACTIONS = ("prepare", "preflight", "push", "delete")


@dataclass
class DeployConfig:
    """One step of bringing a run to a host: ``qat deploy``."""

    # The finished run folder whose export is hosted.
    run: str | None = None
    # In place of `run`: a folder to check or push as it lies, whoever made it; or where to write what needs no run.
    folder: str | None = None
    target: Any = None
    # prepare: write what the host takes and check it; preflight: check it again; push: bring it there; delete: remove
    # what push made.
    action: str = "prepare"
    # Print every call of push and delete, send none. `--dry-run` is short for it.
    dry_run: bool = False
    # Write over what an earlier prepare of this run wrote.
    overwrite: bool = False
    # Where the checks go as JSON; null: preflight.json beside what prepare wrote, and nowhere with `folder`.
    report: str | None = None

    def __post_init__(self) -> None:
        if self.action not in ACTIONS and "${" not in self.action:
            raise InputError(f"action={self.action} is not one of {', '.join(ACTIONS)}{nearest(self.action, ACTIONS)}")


@dataclass
class ServeConfig:
    """One server: ``qat serve``."""

    # The finished run folder whose export is served.
    run: str | None = None
    # Format of the export; null: the one in the run that the engine loads.
    format: str | None = None
    # The engine whose own server answers: name -> component, exactly one.
    engine: dict[str, Any] = field(default_factory=dict)
    gateway: Any = None
    # For a model without one: plain (the messages' texts, one a line), or a file in Jinja.
    chat_template: str | None = None
    # What clients call the model; null: the recipe of the run.
    name: str | None = None


@dataclass
class PlanConfig:
    """One comparison of hosts: ``qat plan``."""

    # The finished run folder whose size counts; or give `parameters`.
    run: str | None = None
    # Of a model that need not exist yet, as in 8e9; null: those of the run.
    parameters: float | None = None
    traffic: Any = None
    # Hosts with their dated prices: name -> component.
    pricing: dict[str, Any] = field(default_factory=dict)
    # How long is simulated.
    days: float = 1.0
    seed: int = 0
    # About so many requests of a simulation are followed one by one; of more, a share.
    max_requests: int = 500_000
    # Seconds after which a first token counts as late.
    late_after: float = 10.0
    # Where the page and the numbers go; null: outputs/plan/<time>.
    out: str | None = None


Settings = DeployConfig | ServeConfig | PlanConfig
_SCHEMAS: dict[str, type[Settings]] = {"deploy": DeployConfig, "serve": ServeConfig, "plan": PlanConfig}


def schema(command: str) -> type[Settings] | None:
    """What ``configs/<command>.yaml`` fills in; None for a command that works on a recipe."""
    return _SCHEMAS.get(command)


def register() -> None:
    """Make the schemas known to Hydra under the names that the primary configs start from."""
    for name, node in _SCHEMAS.items():
        ConfigStore.instance().store(name=f"{name}_config", node=node, provider="qat")
