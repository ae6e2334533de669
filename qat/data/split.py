"""Split a collection by a hash of each member: no list to keep, the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from typing import TypeVar

from qat.data.document import SPLITS, Split
from qat.errors import InputError, nearest

D = TypeVar("D")


def check_shares(validation_share: float, test_share: float) -> None:
    """Refuse shares that leave nothing to train on.

    Raises:
        InputError: unless both are in [0, 1) and their sum is below 1.
    """
    for option, share in (("validation_share", validation_share), ("test_share", test_share)):
        if not 0 <= share < 1:
            raise InputError(f"{option}={share}: a share must be at least 0 and below 1, for example 0.05")
    if validation_share + test_share >= 1:
        raise InputError(
            f"validation_share={validation_share} and test_share={test_share} leave nothing to train on; "
            "their sum must be below 1"
        )


def check_split(split: str) -> None:
    """Raise InputError unless ``split`` is one of ``train``, ``validation``, ``test``."""
    if split not in SPLITS:
        raise InputError(f"split '{split}' is not one of {', '.join(SPLITS)}{nearest(split, SPLITS)}")


def split_of(key: str, validation_share: float, test_share: float) -> Split:
    """The split that ``key`` falls in; it depends on nothing but the three arguments.

    SHA-256 of the key gives a number in [0, 1): the lowest ``test_share`` of that range is the test split, so
    a change of ``validation_share`` never moves a member in or out of it.

    Example:
        >>> split_of("json/decoder.py", validation_share=0.04, test_share=0.04)
        'train'
    """
    digest = hashlib.sha256(f"qat:{key}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < test_share:
        return "test"
    return "validation" if position < test_share + validation_share else "train"


class HoldOut:
    """Where each split's documents come from: its own files, or a share of those given for training.

    Documents are shared out by a hash of their content, so that one that occurs twice is never both trained
    on and tested on, and stays in its split when others are added.

    Args:
        given: the splits that the user named files for.
        validation_share: share of the training documents held out for validation.
        test_share: share of the training documents held out for the final test.
        option: prefix of the options that name a split's own data, for error messages.

    Raises:
        InputError: if a share is out of range, or given for a split that has files of its own.
    """

    def __init__(
        self, given: Collection[Split], validation_share: float, test_share: float, option: str = "data"
    ) -> None:
        check_shares(validation_share, test_share)
        self.option = option
        self.given = frozenset(given)
        self.shares = {"validation": validation_share, "test": test_share}
        for split, share in self.shares.items():
            if split in self.given and share > 0:
                raise InputError(f"both {split} and {split}_share={share} are set; set only one of them")

    def origin(self, split: Split) -> Split:
        """The split whose files hold the documents of ``split``.

        Raises:
            InputError: if there are none, with the option to set.
        """
        check_split(split)
        if split in self.given:
            return split
        if split != "train" and self.shares[split] > 0:
            return self.origin("train")
        share = "" if split == "train" else f", or data.{split}_share to take a share of the training data"
        raise InputError(f"there is no {split} data; set {self.option}.{split}{share}")

    def keeps(self, split: Split, content: str) -> bool:
        """Whether a document read from ``origin(split)`` belongs to ``split``."""
        if not self.divides(split):
            return True
        return split_of(content, self.shares["validation"], self.shares["test"]) == split

    def divides(self, split: Split) -> bool:
        """Whether ``split`` is some of the training documents and not all of them."""
        return self.origin(split) == "train" and any(self.shares.values())

    def options(self, split: Split) -> list[object]:
        """What of the hold-out decides which documents ``split`` has: part of a source's fingerprint."""
        return [split, self.shares] if self.divides(split) else []

    def not_empty(self, split: Split, documents: Iterable[D]) -> Iterator[D]:
        """Pass documents on; InputError after the last if there was none."""
        empty = True
        for document in documents:
            empty = False
            yield document
        if empty:
            if split in self.given:
                raise InputError(f"the {split} split is empty: it has no document; give more data")
            share = f"{self.option}.{split}_share={self.shares.get(split, 1.0):g}"
            raise InputError(
                f"the {split} split is empty: no training document falls into {share}; give more data, raise the share "
                f"or set {self.option}.{split}"
            )
