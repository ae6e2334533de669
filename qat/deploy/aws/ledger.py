"""``pushed.json``: what a push made in the cloud, written as it is made, so that a later push or deletion knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, ValidationInfo, field_validator

from qat.deploy.pushed import PUSHED, write_whole
from qat.errors import InputError


class Stored(BaseModel):
    """An object in S3.

    Attributes:
        size: bytes.
        sha256: of its bytes, hex.
        made: a push from here brought it; False: it was there before, with these bytes, and a deletion leaves it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    sha256: str
    made: bool = True


class Ledger(BaseModel):
    """What every push to AWS makes: objects below an S3 address. Each target adds its own.

    Attributes:
        format_version: of this file.
        target: as its config is called.
        region: where everything is.
        s3_uri: below which the objects are.
        push_id: under which this folder holds the address, see :mod:`qat.deploy.aws.claim`.
        objects: key -> what is or was to be there.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    format_version: Literal[1] = 1
    target: str
    region: str
    s3_uri: str
    push_id: str = Field(default_factory=lambda: str(uuid4()))
    objects: dict[str, Stored] = Field(default_factory=dict)

    _path: Path | None = PrivateAttr(default=None)

    @field_validator("objects")
    @classmethod
    def _are_below(cls, objects: dict[str, Stored], info: ValidationInfo) -> dict[str, Stored]:
        """A deletion goes by these keys, so none may lie elsewhere in the bucket."""
        prefix = str(info.data.get("s3_uri", "")).removeprefix("s3://").partition("/")[2]
        if astray := [key for key in objects if not key.startswith(prefix)]:
            raise ValueError(f"{astray[0]} is not below {prefix}")
        return objects

    @property
    def brought(self) -> list[str]:
        """The keys that a push from here brought, or was about to."""
        return [key for key, held in self.objects.items() if held.made]

    @classmethod
    def begin(cls, folder: Path, dry_run: bool, **where: Any) -> Self:
        """The ledger of ``folder``, or a new one; in a dry run :meth:`save` writes nothing.

        Args:
            folder: that is pushed.
            dry_run: see above.
            where: ``target``, ``region`` and ``s3_uri``.

        Raises:
            InputError: the folder was pushed elsewhere, or its ledger is damaged.
        """
        path = folder / PUSHED
        ledger = cls.read(folder) if path.is_file() else cls(**where)
        for name, value in where.items():
            if (before := getattr(ledger, name)) != value:
                raise InputError(
                    f"{folder} was pushed with {name} {before}, not {value}; remove that first "
                    f"(qat deploy target={ledger.target} action=delete), or push with {name} {before}"
                )
        ledger._path = None if dry_run else path
        return ledger

    @classmethod
    def read(cls, folder: Path, dry_run: bool = False) -> Self:
        """The ledger of ``folder``.

        Raises:
            InputError: nothing was pushed from there, or the file is damaged.
        """
        path = folder / PUSHED
        if not path.is_file():
            raise InputError(f"{folder} has no {PUSHED}: nothing was pushed from there")
        try:
            ledger = cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (ValidationError, ValueError) as error:
            raise InputError(f"{path} is damaged or of another target ({str(error).splitlines()[0]})") from None
        ledger._path = None if dry_run else path
        return ledger

    def save(self) -> None:
        """Write the file whole or not at all."""
        if self._path is None:
            return
        write_whole(self._path, self.model_dump_json(indent=2) + "\n")

    def close(self) -> None:
        """Remove the file: everything in it is gone."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
