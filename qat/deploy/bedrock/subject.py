"""What a preflight looks at: a folder, read as little as possible, and the options of the import."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from qat.errors import InputError
from qat.export.folder import CONFIG
from qat.tensor_files import read_json

if TYPE_CHECKING:
    from qat.deploy.bedrock.target import Bedrock


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as the header of its file names it: ``dtype`` is safetensors' own name, such as ``BF16``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str


@dataclass(frozen=True)
class Subject:
    """A folder that is to be imported with ``target``'s options.

    Of safetensors files only the headers are read, so that 200 GB take seconds. Every property raises
    :class:`~qat.errors.InputError` where its file is missing or broken: the rule that asked is then ``not_run``, and
    the rules on files and on the index fail.
    """

    folder: Path
    target: Bedrock

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json``."""
        return self.json(CONFIG)

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        """``tokenizer_config.json``."""
        return self.json("tokenizer_config.json")

    def json(self, name: str) -> dict[str, Any]:
        """The JSON object in the file ``name``."""
        try:
            return read_json(self.folder / name)
        except InputError as error:
            raise InputError(str(error).removeprefix(f"{self.folder}/").split(";")[0]) from None

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Every file at any depth, relative to the folder: an upload takes all of them."""
        return tuple(sorted(str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()))

    @cached_property
    def weight_files(self) -> tuple[str, ...]:
        """The safetensors files at the top of the folder; one is at least there."""
        files = tuple(name for name in self.files if name.endswith(".safetensors") and "/" not in name)
        if not files:
            raise InputError("there is no *.safetensors file")
        return files

    @cached_property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Every tensor of every safetensors file; a name that two files have comes twice."""
        return tuple(info for name in self.weight_files for info in _header(self.folder / name))

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of the tensors, without the headers of their files."""
        return sum(_data_bytes(self.folder / name) for name in self.weight_files)

    @property
    def model_type(self) -> str:
        """As ``config.json`` says it."""
        return str(self.config.get("model_type"))

    def sections(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """``config.json`` and the parts of a multimodal one (``text_config``, ...), each with its prefix in words."""
        yield "", self.config
        for key, value in self.config.items():
            if key.endswith("_config") and isinstance(value, dict):
                yield f"{key}.", value


def _header(path: Path) -> Iterator[TensorInfo]:
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 # no mapping
                part = file.get_slice(name)
                yield TensorInfo(name, part.get_dtype(), tuple(part.get_shape()), path.name)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path.name} is damaged ({error})") from None


def _data_bytes(path: Path) -> int:
    """A file is 8 bytes with the length of the header, the header, the tensors."""
    with path.open("rb") as file:
        return path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")


def shorten(names: list[str], most: int = 3) -> str:
    """The first of many names, for a message.

    Example:
        >>> shorten(["a", "b", "c", "d"])
        'a, b, c and 1 more'
    """
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
