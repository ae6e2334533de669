"""How a tensor that may be large is cut."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

BLOCK_BYTES = 1 << 26
"""How much of a large tensor is in memory at once where it comes in blocks of rows."""


def row_blocks(layout: Tensor) -> Iterator[slice]:
    """Cut a tensor of one dimension or more into blocks of rows of about ``BLOCK_BYTES``, at least one."""
    rows = max(1, BLOCK_BYTES * len(layout) // max(1, layout.nbytes))
    return (slice(start, start + rows) for start in range(0, max(1, len(layout)), rows))
