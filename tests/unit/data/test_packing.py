from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qat.data.packing import cut
from qat.errors import InputError


def test_blocks_by_hand() -> None:
    assert cut(np.arange(11), 4, "text").tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_exact_fit_has_no_tail() -> None:
    assert cut(np.arange(6), 3, "text").tolist() == [[0, 1, 2], [3, 4, 5]]


def test_nothing_is_copied_out_of_a_memory_map(tmp_path: Path) -> None:
    np.arange(10, dtype=np.uint16).tofile(tmp_path / "a.bin")
    stream = np.memmap(tmp_path / "a.bin", np.uint16, mode="r")
    assert np.shares_memory(cut(stream, 4, "text"), stream)


def test_less_than_a_block_says_how_many_tokens_and_the_fix() -> None:
    with pytest.raises(InputError, match=r"the test split has 3 tokens.*block_size=4; give more text, a larger share"):
        cut(np.arange(3), 4, "the test split")


@pytest.mark.parametrize("block_size", [-1, 0, 1])
def test_block_size_too_small(block_size: int) -> None:
    with pytest.raises(InputError, match=f"block_size={block_size}"):
        cut(np.arange(3), block_size, "text")
