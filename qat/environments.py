"""Virtual environments of packages that do not go with ours, or that not everybody wants.

``scripts/engines.sh`` makes them. A worker script runs there; it does not import qat.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ON_THE_CPU = {
    "CUDA_VISIBLE_DEVICES": "",
    "TORCHDYNAMO_DISABLE": "1",  # compiling a function at its first call takes a C++ compiler, and longer than the call
}
"""Variables of a worker that computes on the CPU."""


def environments() -> Path:
    """Where the environments lie: ``$QAT_ENGINES``, else ``~/.cache/qat/engines``."""
    folder = Path(os.environ.get("QAT_ENGINES") or Path.home() / ".cache" / "qat" / "engines")
    return folder.expanduser().absolute()


@dataclass(frozen=True)
class ForeignPython:
    """The Python of an environment.

    Args:
        environment: name of its folder.
        package: what must be installed in it, as it is imported.
    """

    environment: str
    package: str

    @property
    def folder(self) -> Path:
        """Where the environment lies, or would."""
        return environments() / self.environment

    def missing(self) -> str | None:
        """Why it cannot be used, with the fix; None if it can."""
        fix = f"scripts/engines.sh {self.environment}"
        if not self._python.is_file():
            return f"not installed: {fix}"
        if not [*self.folder.glob(f"lib/python*/site-packages/{self.package}/__init__.py")]:
            return f"its environment {self.folder} has no package {self.package}: {fix}"
        return None

    def command(self, *words: str) -> tuple[str, ...]:
        """The Python with ``words``. -E: our own PYTHONPATH is not for this Python."""
        return (str(self._python), "-E", *words)

    def version(self, distribution: str) -> str | None:
        """Installed version of a distribution; None where it is not there."""
        found = self.folder.glob(f"lib/python*/site-packages/{distribution}-*.dist-info")
        return next((path.name.removesuffix(".dist-info").rpartition("-")[2] for path in found), None)

    @property
    def _python(self) -> Path:
        return self.folder / "bin" / "python"
