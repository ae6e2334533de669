"""Engines whose packages conflict with ours, or which not everybody wants: each in a virtual environment of its own.

``scripts/engines.sh`` makes the environments. A worker script of ``qat/engines/workers`` runs there; it does not
import qat.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from qat.engines.remote import Launch, Remote
from qat.environments import ON_THE_CPU, ForeignPython


class Foreign(Remote):
    """A subclass names its environment and passes the options of its worker's ``load``. On the CPU only."""

    environment: str
    """Name of the environment's folder."""

    package: str
    """What must be installed in it, as it is imported. The script is ``workers/<environment>_worker.py``."""

    cpu_flags: frozenset[str] = frozenset()
    """Instruction sets that an x86 processor needs, as Linux names them."""

    def __init__(self, time_limit: float, **options: Any) -> None:
        super().__init__(time_limit)
        self._options = options

    def missing(self) -> str | None:
        """See the base class."""
        if (absent := self.python.missing()) is not None:
            return absent
        if self.cpu_flags and (lacking := sorted(self.cpu_flags - processor_flags())):
            return f"this processor ({platform.machine()}) lacks {', '.join(lacking)}: run it on one that has them"
        return None

    def launch(self, device: str) -> Launch:
        """See the base class."""
        script = Path(__file__).with_name("workers") / f"{self.environment}_worker.py"
        return Launch(self.environment, self.python.command(str(script)), ON_THE_CPU, self._options)

    @property
    def python(self) -> ForeignPython:
        """The Python of its environment."""
        return ForeignPython(self.environment, self.package)


def processor_flags() -> frozenset[str]:
    """Instruction sets of this machine's processor, as Linux names them; empty where they cannot be read."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    lines = (line.partition(":") for line in text.split("\n"))
    return frozenset(next((value.split() for key, _, value in lines if key.strip() in ("flags", "Features")), []))
