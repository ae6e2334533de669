"""Reasons that many cells share: a cell holds a number, and each reason is said once below the table."""

from __future__ import annotations


class Notes:
    """Numbered reasons.

    Attributes:
        texts: the reasons in the order of their numbers, each on one line.

    Example:
        >>> notes = Notes()
        >>> notes.mark("no kernel"), notes.mark("holds weights only"), notes.mark("no kernel")
        ('(1)', '(2)', '(1)')
    """

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, reason: str) -> str:
        """Number of ``reason``, in brackets; a new one is added."""
        text = " ".join(reason.split())
        if text not in self.texts:
            self.texts.append(text)
        return f"({self.texts.index(text) + 1})"
