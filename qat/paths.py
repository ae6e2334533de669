"""Where shipped configs, recipes and the cache lie, and how a finished folder is published."""

from __future__ import annotations

import errno
import os
import shutil
import socket
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


def temporary_beside(final: Path, overwrite: bool = False) -> Path:
    """A fresh, empty folder next to ``final`` to write into before :func:`publish`.

    One that a killed process left for the same ``final`` is removed; a folder that it had moved aside to replace it,
    and not replaced, gets its name back. The name holds the host besides the process, since several hosts may write
    to one disk.

    Args:
        final: the folder that is to be.
        overwrite: whether it may exist: it stays as it is until :func:`publish`.

    Raises:
        InputError: if ``final`` exists already and may not.
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
    if final.exists() and not overwrite:
        raise InputError(f"{final} exists already; choose another folder or remove it first")
    temporary = final.parent / f"{prefix}{os.getpid()}{suffix}"
    temporary.mkdir(parents=True)
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
