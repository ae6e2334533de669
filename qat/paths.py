"""Where shipped configs, recipes and the cache lie, and how a finished folder is published."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qat.errors import InputError

_PACKAGE = Path(__file__).resolve().parent
_ASIDE = ".old"  # ends the name of a folder that is about to be replaced


def _shipped(name: str) -> Path:
    """In a wheel ``configs/`` and ``recipes/`` lie inside the package, in a checkout beside it."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def configs_dir() -> Path:
    """Folder of the shipped component configs."""
    return _shipped("configs")


def recipes_dir() -> Path:
    """Folder of the shipped recipes."""
    return _shipped("recipes")


def assets_dir() -> Path:
    """Folder of the model that ships with the package."""
    return _PACKAGE / "assets"


def cache_dir() -> Path:
    """Token cache: ``$QAT_CACHE``, else ``~/.cache/qat``."""
    return Path(os.environ.get("QAT_CACHE") or Path.home() / ".cache" / "qat").expanduser()


@contextmanager
def new_folder(final: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill, which takes the name ``final`` in the end; after an error nothing is left of it.

    Parents that were made for it go too, where they are empty. Arguments and errors are those of
    :func:`temporary_beside` and :func:`publish`.

    Example:
        >>> with new_folder(Path("exports/gguf")) as temporary:
        ...     _ = (temporary / "model.gguf").write_bytes(b"")
    """
    made = [parent for parent in final.parents if not parent.exists()]
    temporary: Path | None = None
    try:
        temporary = temporary_beside(final, overwrite)
        yield temporary
        publish(temporary, final, overwrite)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # one that holds something stays, and so do those around it
            for parent in made:
                parent.rmdir()


def temporary_beside(final: Path, overwrite: bool = False) -> Path:
    """A fresh, empty folder next to ``final`` to write into before :func:`publish`.

    One that a killed process left for the same ``final`` is removed; a folder that it had moved aside to replace it,
    and not replaced, gets its name back. The name holds the host besides the process, since several hosts may write
    to one disk.

    Args:
        final: the folder that is to be.
        overwrite: whether it may exist: it stays as it is until :func:`publish`.

    Raises:
        InputError: if ``final`` exists already and may not, or is no folder, or a parent of it is none.
    """
    prefix, suffix = f".{final.name}.{socket.gethostname()}.", ".tmp"
    for leftover in [*final.parent.iterdir()] if final.parent.is_dir() else []:
        name = leftover.name.removesuffix(_ASIDE)
        process = name.removeprefix(prefix).removesuffix(suffix)
        ours = name == f"{prefix}{process}{suffix}" and process.isdecimal()
        if not ours or (int(process) != os.getpid() and _is_alive(int(process))):
            continue
        if leftover.name.endswith(_ASIDE) and not final.exists():
            os.replace(leftover, final)
        else:
            shutil.rmtree(leftover, ignore_errors=True)
    if os.path.lexists(final):
        if not overwrite:
            raise InputError(f"{final} exists already; choose another folder or remove it first")
        if final.is_symlink() or not final.is_dir():
            raise InputError(f"{final} is no folder of its own that could be overwritten; move it away first")
    temporary = final.parent / f"{prefix}{os.getpid()}{suffix}"
    try:
        temporary.mkdir(parents=True)
    except (FileExistsError, NotADirectoryError):
        obstacle = next(parent for parent in final.parents if os.path.lexists(parent))
        raise InputError(f"{obstacle} is no folder, and {final} must lie in it; move it away first") from None
    return temporary


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only asks
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's
    return True


def publish(temporary: Path, final: Path, overwrite: bool = False) -> None:
    """Rename a finished folder to its final name, so that a half-written one is never seen.

    With ``overwrite`` a folder of that name is moved aside first and removed last; if the new one cannot take its
    name, the old one gets it back.

    Raises:
        InputError: without ``overwrite``, if a folder of that name has appeared meanwhile and holds something.
    """
    if not (overwrite and final.exists()):
        try:
            os.replace(temporary, final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise InputError(f"{final} exists by now, since another command made it; it is left as it is") from error
        return
    aside = temporary.with_name(f"{temporary.name}{_ASIDE}")
    os.replace(final, aside)
    try:
        os.replace(temporary, final)
    except BaseException:
        os.replace(aside, final)
        raise
    shutil.rmtree(aside)
