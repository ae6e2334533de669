"""GGUF, the one-file format of llama.cpp and Ollama, by the library ``gguf``, which the extra of that name installs."""

from __future__ import annotations

from qat.errors import InputError

try:
    import gguf as _library  # noqa: F401
except ModuleNotFoundError as error:
    raise InputError("export=gguf needs the package gguf: pip install '.[gguf]' in qat's checkout") from error

from qat.export.gguf.exporter import GgufExporter

__all__ = ["GgufExporter"]
