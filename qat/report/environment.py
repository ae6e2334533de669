"""What a run ran on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from qat.report.metrics import Environment

_PACKAGES = (
    "qat",
    "torch",
    "torchao",
    "transformers",
    "compressed-tensors",
    "pytorch-lightning",
    "safetensors",
)


def environment() -> Environment:
    """Versions and machine of this process."""
    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpus=_cpus(),
        accelerator=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        versions={name: found for name in _PACKAGES if (found := _version(name)) is not None},
        commit=_commit(Path(__file__).resolve().parents[2]),
    )


def _cpus() -> int:
    """Processors that this process may use; macOS has no affinity."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit(checkout: Path) -> str | None:
    """Commit of a checkout, ``-dirty`` appended if files were changed; None without git or checkout."""
    if not (checkout / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(checkout), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
