"""Write a GGUF file piece by piece, and prove that the disk has what was written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from gguf import GGUFWriter

from qat.errors import RunError
from qat.export.gguf.tensors import Placed
from qat.tensor_files import sha256


def write_file(writer: GGUFWriter, path: Path, tensors: Sequence[Placed]) -> None:
    """Write the metadata that ``writer`` has and ``tensors`` to ``path``, which is then read again and compared.

    Raises:
        RunError: the file does not read back as it was written.
    """
    try:
        for tensor in tensors:
            tensor.announce(writer)
        writer.open_output_file(path)
        assert writer.fout is not None
        file = _Hashing(writer.fout[0])
        writer.fout = [file]  # type: ignore[list-item] # as much of a file as the writer uses
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(tensor)  # type: ignore[arg-type] # it needs nbytes and tofile
    finally:
        writer.close()
    if sha256(path) != file.digest.hexdigest():
        raise RunError(f"{path} does not read back as it was written; check the disk")


class _Hashing:
    """A file that hashes what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self._file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
