from __future__ import annotations

import errno

from safetensors import SafetensorError

from qat.errors import DiskFull, QatError, is_disk_full


def test_a_full_disk_is_told_from_other_errors() -> None:
    assert is_disk_full(OSError(errno.ENOSPC, "No space left on device"))
    assert is_disk_full(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert is_disk_full(SafetensorError("I/O error: No space left on device (os error 28)"))
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))
    assert not is_disk_full(ValueError("(os error 2)"))


def test_a_full_disk_is_for_the_user_to_put_right() -> None:
    assert issubclass(DiskFull, QatError)
    assert DiskFull.exit_code == 2
