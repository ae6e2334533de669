"""Cut one long stream of tokens into blocks of equal length."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qat.errors import InputError


def cut(stream: npt.NDArray[np.generic], block_size: int, name: str) -> npt.NDArray[np.generic]:
    """View a stream as blocks; the tail that does not fill a block is dropped.

    Documents run on into the next block, so no token is padding and every block has the same cost.

    Args:
        stream: ``[tokens]``, any dtype, in memory or memory-mapped; nothing is copied.
        block_size: tokens a block.
        name: what the stream is, for the error message.

    Returns:
        A view ``[tokens // block_size, block_size]``.

    Raises:
        InputError: if ``block_size`` is below 2 or the stream does not fill one block.

    Example:
        >>> cut(np.arange(7), 3, "the train split").tolist()
        [[0, 1, 2], [3, 4, 5]]
    """
    if block_size < 2:
        raise InputError(
            f"block_size={block_size}: a block needs at least 2 tokens, the second predicted from the first"
        )
    blocks = len(stream) // block_size
    if blocks == 0:
        raise InputError(
            f"{name} has {len(stream)} tokens, fewer than one block of block_size={block_size}; "
            "give more text, a larger share of it to this split, or a smaller block_size"
        )
    return stream[: blocks * block_size].reshape(blocks, block_size)
