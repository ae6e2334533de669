"""What every host has in common: write, check, push, remove."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.console import Console

from qat.checkpoint import QuantizedCheckpoint
from qat.deploy.checks import Preflight
from qat.deploy.words import given, word
from qat.errors import InputError


@dataclass(frozen=True)
class Source:
    """A finished run, as a host needs it.

    Attributes:
        checkpoint: the frozen integer model.
        tokenizer: folder with the tokenizer's files.
        name: of the model, such as its recipe's.
    """

    checkpoint: QuantizedCheckpoint
    tokenizer: Path
    name: str


class Target(ABC):
    """A host. One subclass in one file or package, and one YAML in ``configs/target`` with its options.

    ``folder`` is always what :meth:`prepare` wrote; :meth:`preflight` and :meth:`push` take a folder of somebody
    else's making as well.

    Example:
        >>> target = Bedrock(region="us-east-1")
        >>> target.prepare(source, folder)
        >>> target.preflight(folder).failed
        ()
    """

    name: ClassVar[str]
    """As its config is called."""
    needed: ClassVar[Mapping[str, str]] = {}
    """Options without a default that a push needs -> how each is written, with ``<>`` around what is the user's."""

    @property
    def needs_run(self) -> bool:
        """Whether :meth:`prepare` writes from a finished run; False of what was made elsewhere."""
        return True

    @property
    def pushes(self) -> bool:
        """Whether there is a place to push to."""
        return True

    @property
    def lacking(self) -> tuple[str, ...]:
        """What :meth:`push` cannot do without and was not given, as words that a shell takes as they are."""
        return tuple(word(f"target.{name}", how) for name, how in self.needed.items() if getattr(self, name) is None)

    @property
    def next_words(self) -> tuple[str, ...]:
        """The options with which to push what :meth:`prepare` wrote: those that were given, and what is lacking."""
        return (*given(self), *self.lacking)

    def check_options(self, action: str) -> None:
        """Return if the options suffice for ``action``, before any of it is done.

        Raises:
            InputError: one that is missing or wrong.
        """
        for option, how in self.needed.items():
            if found := re.search("<[^<>]+>", getattr(self, option) or ""):
                raise InputError(f"target.{option} still says {found[0]}: put your own there, as in {how}")
        if action == "push" and self.lacking:
            raise InputError(f"a push to {self.name} needs more options; add: {' '.join(self.lacking)}")

    @abstractmethod
    def prepare(self, source: Source | None, folder: Path) -> None:
        """Write what the host takes into ``folder``, which exists and is empty; the caller publishes it.

        Args:
            source: the finished run; None only where :attr:`needs_run` is False.
            folder: where to.

        Raises:
            InputError: the host cannot take this model, with the reason and what to do instead.
        """

    @abstractmethod
    def preflight(self, folder: Path) -> Preflight:
        """Check ``folder`` against every rule of the host. Sends nothing anywhere.

        Raises:
            InputError: there is no such folder. Whatever is wrong inside it is a failed check, not an error.
        """

    @abstractmethod
    def push(self, folder: Path, log: Console, dry_run: bool) -> None:
        """Bring ``folder`` to the host and try it there; a second call goes on where the first one ended.

        Args:
            folder: what passed :meth:`preflight`.
            log: where progress is told.
            dry_run: print every call as a line of JSON on standard output, send none.

        Raises:
            InputError: an option that is missing or wrong.
            RunError: the host refused, in its own words.
        """

    @abstractmethod
    def delete(self, folder: Path, log: Console, dry_run: bool) -> None:
        """Remove from the host everything that :meth:`push` made, and nothing else.

        Raises:
            InputError: nothing was pushed from ``folder``.
            RunError: the host refused, in its own words.
        """


def part_of(folder: Path, part: str, target: str) -> Path:
    """``folder/part`` where :meth:`Target.prepare` made it, else ``folder`` itself, whoever made that.

    Raises:
        InputError: no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; make it with qat deploy target={target} run=<run folder>")
    return folder / part if (folder / part).is_dir() else folder
