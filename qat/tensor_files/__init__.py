"""Folders of safetensors files of any size: read tensor by tensor, written shard by shard."""

from qat.tensor_files.blocks import row_blocks
from qat.tensor_files.reading import INDEX, SINGLE, TensorFolder, read_json, sha256
from qat.tensor_files.writing import HEADER, parse_size, write_tensors

__all__ = [
    "HEADER",
    "INDEX",
    "SINGLE",
    "TensorFolder",
    "parse_size",
    "read_json",
    "row_blocks",
    "sha256",
    "write_tensors",
]
