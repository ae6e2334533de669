"""Weights & Biases: online with a key, offline without one."""

from __future__ import annotations

import netrc
import os
import secrets
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import wandb
import yaml
from pytorch_lightning.loggers import WandbLogger as LightningWandbLogger


class WandbLogger(LightningWandbLogger):
    """Writes to ``<run_dir>/wandb``, and to the server when a key is found (see :func:`mode`).

    The id of the run is kept in the run folder, so that a resumed run goes on in the same one. What is sent
    besides the metrics is the run folder's ``.hydra/config.yaml``, whose secrets are redacted: neither the
    command line nor the console output, which may hold some.

    Args:
        run_dir: the run folder.
        project: project of the run.
        entity: user or team; ``None`` for the key's own.
        group: name that collects runs.
        tags: labels of the run.
    """

    def __init__(
        self,
        run_dir: Path,
        project: str = "qat",
        entity: str | None = None,
        group: str | None = None,
        tags: tuple[str, ...] = (),
    ) -> None:
        super().__init__(
            name="/".join(run_dir.resolve().parts[-2:]),
            save_dir=run_dir,
            project=project,
            id=_run_id(run_dir),
            mode=mode(),
            entity=entity,
            group=group,
            tags=list(tags),
            config=_config(run_dir),
            settings=wandb.Settings(console="off", x_disable_meta=True, silent=True),
        )
        # Lightning names it whether it was asked for or not, and wandb warns that it has no effect any more.
        self._wandb_init.pop("anonymous", None)

    def finalize(self, status: str) -> None:
        """End the run, so that the next one in this process is a run of its own."""
        super().finalize(status)
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None

    def log_artifact(self, path: Path, name: str, type: str) -> None:
        """Upload the file or folder at ``path`` (offline: note it for ``wandb sync``) and end the run."""
        artifact = wandb.Artifact(name, type)
        # Immutable: what is published is not changed any more, so wandb need not copy it first.
        if path.is_dir():
            artifact.add_dir(str(path), policy="immutable")
        else:
            artifact.add_file(str(path), policy="immutable")
        self.experiment.log_artifact(artifact)
        self.finalize("success")


def mode() -> Literal["online", "offline", "disabled", "shared"]:
    """``$WANDB_MODE`` if set; else online if ``$WANDB_API_KEY`` or the netrc file has a key, else offline."""
    chosen: Any = os.environ.get("WANDB_MODE")
    return chosen or ("online" if _has_key() else "offline")


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _run_id(run_dir: Path) -> str:
    file = run_dir / "wandb" / "run_id"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(secrets.token_hex(4), encoding="utf-8")
    return file.read_text(encoding="utf-8")


def _config(run_dir: Path) -> dict[str, Any]:
    file = run_dir / ".hydra" / "config.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}
