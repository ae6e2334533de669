"""The run folder: where it is, when it may be made, and how an existing one is taken up again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from qat.config import local_paths, record
from qat.config.schema import TRAINING_KEYS, RunConfig
from qat.errors import InputError, is_disk_full

OUTPUTS = Path("outputs")


@dataclass
class RunFolder:
    """Paths of one run; nothing is written before :meth:`create`.

    Attributes:
        command: what works on it.
        path: the folder itself; :meth:`create` takes the next free one if another run has just taken this name.
        config: what ran, as plain data without secrets; paths of files that are there are absolute.
        overrides: what was typed, without secrets.
        exists: whether an earlier run made it (``resume=`` or ``run=``).
        latest: link that :meth:`create` points at the folder, if any.
        anchors: overrides that are recorded behind the typed ones: they name the same files from any folder.
    """

    command: str
    path: Path
    config: dict[str, Any]
    overrides: list[str]
    exists: bool = False
    latest: Path | None = None
    anchors: list[str] = field(default_factory=list)
    _made: bool = field(default=False, init=False)
    _new_parents: list[Path] = field(default_factory=list, init=False)

    @property
    def quantized(self) -> Path:
        """The quantized checkpoint."""
        return self.path / "quantized"

    @property
    def exports(self) -> Path:
        """One folder an export format."""
        return self.path / "exports"

    @property
    def how_to_resume(self) -> str:
        """What to type after an interruption."""
        return f"resume with: qat {self.command} resume={self.path}"

    def was_typed(self, key: str) -> bool:
        """Whether ``key``, or an option below it, was given to this command and not only to the run it takes up."""
        before = len(record.read_overrides(self.path)) if self.exists else 0
        given = (override.partition("=")[0].lstrip("+~") for override in self.overrides[before:])
        return any(name == key or name.startswith(f"{key}.") for name in given)

    def refuse_change(self, keys: Iterable[str]) -> None:
        """Return if an existing run is taken up with the ``keys`` that it was started with.

        Args:
            keys: of the config, besides those that :func:`choose` looks at.

        Raises:
            InputError: one differs.
        """
        saved = record.read_config(self.path)
        for key in keys:
            if found := difference(saved.get(key), self.config.get(key), key):
                raise InputError(f"{found[0]}={found[2]} but {self.path} was started with {found[1]}; start a new run")

    def create(self) -> Path:
        """Make the folder and write what ran into ``.hydra``; an existing run is left as it is.

        Raises:
            InputError: if the folder cannot be made.
        """
        if self.exists:
            return self.path
        self._write_record()
        self._point_latest_here()
        return self.path

    @contextmanager
    def whole(self) -> Iterator[None]:
        """:meth:`create`, for a command that cannot be resumed: what fails inside leaves no folder behind.

        Raises:
            InputError: if the folder cannot be made.
        """
        try:
            self._write_record()
            yield
        except BaseException:  # Ctrl-C too
            self._remove()
            raise
        self._point_latest_here()

    def _remove(self) -> None:
        """What :meth:`_make` made; a parent that another run uses by now stays."""
        if not self._made:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        for parent in self._new_parents:
            with suppress(OSError):
                parent.rmdir()

    def _write_record(self) -> None:
        try:
            self._make()
        except OSError as error:
            if is_disk_full(error):
                raise
            raise InputError(
                f"the run folder {self.path} cannot be made ({error.strerror}); choose another with run_dir=<folder>"
            ) from error
        record.write(self.config, [*self.overrides, *self.anchors], self.path)

    def _point_latest_here(self) -> None:
        if self.latest is None:
            return
        temporary = self.latest.with_name(f".latest.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(self.path.name, target_is_directory=True)
        temporary.replace(self.latest)

    def _make(self) -> None:
        """Several runs may have begun in the same second and chosen the same name: making it settles whose it is."""
        self._new_parents = [parent for parent in self.path.parents if not parent.exists()]
        while not self._made:
            try:
                self.path.mkdir(parents=True, exist_ok=self.latest is None)
                self._made = True
            except FileExistsError:
                if self.latest is None:
                    raise
                self.path = _fresh(self.path.parent)


def choose(
    command: str, run: RunConfig, config: DictConfig, overrides: Sequence[str], swept: Path | None = None
) -> RunFolder:
    """Decide where a run goes.

    Args:
        command: what is run.
        run: the checked config.
        config: the composed config, to be written down.
        overrides: what was typed.
        swept: the folder that Hydra made for this job of a ``--multirun``.

    Raises:
        InputError: if ``run_dir`` exists, ``resume`` or ``run`` is no run folder, or a resumed run would not
            train as it began, or would leave an export as it is that was written with other options.
    """
    as_typed = record.resolved(config)
    safe = local_paths.absolute(as_typed)
    anchors = local_paths.overrides(as_typed, safe)
    typed = [record.redact_override(override) for override in overrides]
    taken_up = run.resume or run.run
    if taken_up is not None:
        saved = record.read_config(Path(taken_up))
        folder = RunFolder(command, _behind_link(Path(taken_up)), safe, typed, exists=True)
        if run.resume is not None:
            _refuse_change(saved, safe, taken_up)
            _refuse_other_exports(saved, folder)
        return folder
    if swept is not None:
        return RunFolder(command, swept, safe, typed, anchors=anchors)
    if run.run_dir is not None:
        path = Path(run.run_dir)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"run_dir={path} exists; choose another, or continue it with resume={path}")
        return RunFolder(command, path, safe, typed, anchors=anchors)
    parent = OUTPUTS / (run.recipe or model_name(run))
    return RunFolder(command, _fresh(parent), safe, typed, latest=parent / "latest", anchors=anchors)


def _behind_link(path: Path) -> Path:
    """What ``latest`` points at now: another run may move it while this one works."""
    return path.parent / path.readlink() if path.is_symlink() else path


def difference(saved: Any, now: Any, key: str) -> tuple[str, Any, Any] | None:
    """The first place in which two plain containers differ: its dotted key and both values.

    Example:
        >>> difference({"a": {"b": 1}}, {"a": {"b": 2}}, "top")
        ('top.a.b', 1, 2)
    """
    if isinstance(saved, dict) and isinstance(now, dict):
        for name in [*saved, *(name for name in now if name not in saved)]:
            found = difference(saved.get(name), now.get(name), f"{key}.{name}")
            if found is not None:
                return found
        return None
    return None if saved == now else (key, saved, now)


def _refuse_change(saved: dict[str, Any], now: dict[str, Any], folder: str) -> None:
    for key in TRAINING_KEYS:
        found = difference(saved.get(key), now.get(key), key)
        if found is not None:
            place, before, after = found
            raise InputError(
                f"{place}={after} but {folder} was started with {before}; a resumed run must train as it "
                f"began, so leave {place} out or start a new run"
            )


def _refuse_other_exports(saved: dict[str, Any], folder: RunFolder) -> None:
    """A resumed run keeps the exports that are there, so other options for one of them would have no effect."""
    before, now = saved.get("export") or {}, folder.config.get("export") or {}
    for name in sorted(before.keys() & now.keys()):
        found = difference(before[name], now[name], f"export.{name}")
        if found is not None and (folder.exports / name).is_dir():
            place, old, new = found
            option = f"{place}={'null' if new is None else new}"
            raise InputError(
                f"{option} but {folder.exports / name} was written with {old}; replace it with: "
                f"qat export run={folder.path} export={name} {option} overwrite=true"
            )


def model_name(run: RunConfig) -> str:
    """Last part of the model's path or hub id, else the name of its config."""
    path = run.model.get("path") if run.model else None
    return Path(path).name if path else str(run.choices.model)


def _fresh(parent: Path) -> Path:
    """A folder named after the present second that is not there yet."""
    time = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    names = [time, *(f"{time}-{count}" for count in range(2, 100))]
    return next(parent / name for name in names if not (parent / name).exists())
