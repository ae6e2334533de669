"""The target ``sagemaker``: an endpoint of AWS's LMI container, which runs vLLM on the packed integers."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from rich.console import Console

from qat.deploy.base import Source, Target, part_of
from qat.deploy.checks import Preflight
from qat.deploy.sagemaker import serving
from qat.deploy.sagemaker.preflight import preflight
from qat.deploy.words import given, word
from qat.errors import InputError
from qat.export.compressed_tensors import CompressedTensorsExporter

MODEL = "model"
"""What the container loads: the checkpoint and ``serving.properties``."""
ARCHIVE = "model.tar.gz"
"""The same in one file, of ``packaging: tar``."""


@dataclass(frozen=True)
class SageMaker(Target):
    """A real-time endpoint that loads compressed-tensors integers as they are.

    Args:
        region: where the endpoint is.
        s3_uri: ``s3://bucket/prefix`` that the model is uploaded to.
        image: URI of the LMI image in ECR. It has no default, since AWS adds one every few weeks.
        role_arn: the role that SageMaker pulls the image and reads the bucket with.
        instance: type such as ``ml.g6.2xlarge``; no default, since it decides what the endpoint costs.
        instances: of them.
        endpoint_name: of the endpoint, its configuration and the model; None: made of the end of ``s3_uri``.
        packaging: ``prefix``: files as they are, which load faster; ``tar``: one model.tar.gz.
        batching: ``async`` for LMI 15 and later, ``rolling`` for those before it.
        tensor_parallel: GPUs that share the model; None: all of the instance.
        context: longest sequence in tokens; None: the model's own.
        batch: sequences at once.
        kms_key: key of the volume of the instances; None: one of AWS's.
        tags: of model, configuration and endpoint.
        endpoints: service (``s3``, ``sagemaker``, ``sagemaker-runtime``) -> URL in place of AWS's.
        profile: of the AWS configuration; None: the default one.
        upload_threads: parts uploaded at once.
        start_minutes: how long an instance may download the model, and how long it may load it; 1 to 60.
        smoke_prompt: what the new endpoint is asked once.
    """

    name: ClassVar[str] = "sagemaker"
    needed: ClassVar[Mapping[str, str]] = {
        "s3_uri": "s3://<bucket>/<prefix>",
        "image": "<uri>",
        "role_arn": "<arn>",
        "instance": "<type>",
    }

    region: str = "us-east-1"
    s3_uri: str | None = None
    image: str | None = None
    role_arn: str | None = None
    instance: str | None = None
    instances: int = 1
    endpoint_name: str | None = None
    packaging: Literal["prefix", "tar"] = "prefix"
    batching: serving.Batching = "async"
    tensor_parallel: int | None = None
    context: int | None = None
    batch: int = 64
    kms_key: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    endpoints: dict[str, str] = field(default_factory=dict)
    profile: str | None = None
    upload_threads: int = 8
    start_minutes: int = 30
    smoke_prompt: str = "Hello"

    def prepare(self, source: Source | None, folder: Path) -> None:
        """Write ``model/``, and ``model.tar.gz`` with ``packaging: tar``."""
        assert source is not None
        dtype = str(source.checkpoint.config.get("dtype", "float32"))
        if dtype not in serving.DTYPES:
            raise InputError(f"weights of dtype {dtype}; LMI takes {', '.join(serving.DTYPES)}")
        model = folder / MODEL
        CompressedTensorsExporter().write(source.checkpoint, model, source.tokenizer)
        values = serving.properties(dtype, self.batching, self.tensor_parallel, self.context, self.batch)
        serving.write(model / serving.FILE, values)
        if self.packaging == "tar":
            pack(model, folder / ARCHIVE)

    def preflight(self, folder: Path) -> Preflight:
        """See :mod:`qat.deploy.sagemaker.preflight`."""
        return preflight(self, model_folder(folder))

    def push(self, folder: Path, log: Console, dry_run: bool) -> None:
        """Upload, make model, configuration and endpoint, wait until it is in service, ask it once."""
        from qat.deploy.sagemaker import push  # needs the extra `deploy`

        push.push(self, folder, log, dry_run)

    def delete(self, folder: Path, log: Console, dry_run: bool) -> None:
        """Remove endpoint, configuration, model and the uploaded objects."""
        from qat.deploy.sagemaker import push

        push.delete(self, folder, log, dry_run)


def model_folder(folder: Path) -> Path:
    """The container's folder: ``model/`` where :meth:`SageMaker.prepare` made it, else all of ``folder``.

    Raises:
        InputError: no such folder.
    """
    return part_of(folder, MODEL, SageMaker.name)


def pack(model: Path, archive: Path) -> None:
    """Write the files of ``model`` to a tar.gz, at its top; the same files make the same bytes."""
    paths = sorted(path for path in model.rglob("*") if path.is_file())
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=1, mtime=0) as out,  # integers compress little
        tarfile.open(fileobj=out, mode="w") as tar,
    ):
        for path in paths:
            entry = tarfile.TarInfo(path.relative_to(model).as_posix())
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                tar.addfile(entry, file)


def uploaded(target: SageMaker, folder: Path) -> Path:
    """What is uploaded: the model's folder, or its archive.

    Raises:
        InputError: ``packaging: tar`` without an archive.
    """
    if target.packaging == "prefix":
        return model_folder(folder)
    if not (folder / ARCHIVE).is_file():
        ours = folder.absolute().parts[-2:] == ("deploy", target.name)
        run = word("run", folder.parent.parent) if ours else "run=<run folder>"
        raise InputError(
            f"{folder} has no {ARCHIVE}; push with target.packaging=prefix, or make it: "
            f"qat deploy target={target.name} {run} {' '.join(given(target))} overwrite=true"
        )
    return folder / ARCHIVE
