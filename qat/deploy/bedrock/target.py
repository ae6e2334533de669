"""The target ``bedrock``: Amazon Bedrock Custom Model Import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from rich.console import Console

from qat.deploy.base import Source, Target, part_of
from qat.deploy.bedrock.preflight import preflight
from qat.deploy.bedrock.rules.dialect import REWRITE
from qat.deploy.checks import Preflight
from qat.deploy.words import given
from qat.errors import InputError
from qat.export.compressed_tensors import CompressedTensorsExporter
from qat.export.dequantized import DequantizedExporter
from qat.tensor_files import read_json

IMPORT = "import"
"""What Bedrock loads: the lossless 16-bit twin, as transformers 4.51.3 reads it."""
PACKED = "packed"
"""The integers, for engines that take them: SageMaker, vLLM, transformers."""


@dataclass(frozen=True)
class Bedrock(Target):
    """Bedrock serves 16-bit Hugging Face files: here the twin that holds the integer model's values bit for bit.

    No text of AWS says that it takes integer weights, so none are sent: ``packed`` lies beside for other engines.

    Args:
        region: where the model is imported and served.
        s3_uri: ``s3://bucket/prefix`` that the import folder is uploaded to.
        role_arn: the role that Bedrock reads the bucket with; None with ``create_role``: one is made.
        create_role: make the role ``role_name`` with the policies of rule 10, where ``role_arn`` is not given.
        role_name: of the role that is made.
        model_name: of the imported model; None: made of the prefix of ``s3_uri``.
        job_name: of the import job; None: the model's name and the time of the push.
        account: the 12 digits of the AWS account; None: asked of AWS (STS) by a push.
        kms_key: key that Bedrock encrypts the imported model with; None: one of AWS's own.
        tags: of the job, the model and the role.
        subnet_ids: of the VPC that the job runs in, with ``security_group_ids``.
        security_group_ids: see there.
        trust_policy: file of the role's trust policy to check, as JSON; None: the one that would be made is printed.
        permission_policy: file of the role's permission policy to check.
        key_policy: file of the key's policy to check.
        endpoints: service (``s3``, ``sts``, ``iam``, ``bedrock``, ``bedrock-runtime``) -> URL in place of AWS's.
        profile: of the AWS configuration; None: the default one.
        upload_threads: parts uploaded at once.
        job_hours: how long an import job may take.
        ready_minutes: how long a cold model may take to answer.
        smoke_prompt: what the new model is asked once, in each of the three request formats.
        parity: compare logits under transformers 4.51.3 in a preflight, which loads the whole model twice.
    """

    name: ClassVar[str] = "bedrock"
    needed: ClassVar[Mapping[str, str]] = {"s3_uri": "s3://<bucket>/<prefix>"}

    region: str = "us-east-1"
    s3_uri: str | None = None
    role_arn: str | None = None
    create_role: bool = False
    role_name: str = "QatBedrockImport"
    model_name: str | None = None
    job_name: str | None = None
    account: str | None = None
    kms_key: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    subnet_ids: list[str] = field(default_factory=list)
    security_group_ids: list[str] = field(default_factory=list)
    trust_policy: str | None = None
    permission_policy: str | None = None
    key_policy: str | None = None
    endpoints: dict[str, str] = field(default_factory=dict)
    profile: str | None = None
    upload_threads: int = 8
    job_hours: float = 12.0
    ready_minutes: float = 15.0
    smoke_prompt: str = "Hello"
    parity: bool = True

    @property
    def lacking(self) -> tuple[str, ...]:
        """See the base class: where to; a role alone is missed by the push itself, which prints its policies."""
        return (*super().lacking, *self._role) if self.s3_uri is None else ()

    @property
    def next_words(self) -> tuple[str, ...]:
        """See the base class."""
        return (*given(self), *super().lacking, *self._role)

    @property
    def _role(self) -> tuple[str, ...]:
        return () if self.role_arn is not None or self.create_role else ("target.create_role=true",)

    def check_options(self, action: str) -> None:
        """See the base class: what a push needs, and policies that can be read."""
        super().check_options(action)
        if action == "delete":
            return
        for option in ("trust_policy", "permission_policy", "key_policy"):
            if (file := getattr(self, option)) is None:
                continue
            try:
                read_json(Path(file))
            except (InputError, OSError) as error:
                why = str(error).removeprefix(str(Path(file))).split(";")[0].strip()
                raise InputError(f"target.{option}={file}: {why}; give a file with the policy as JSON") from None

    def prepare(self, source: Source | None, folder: Path) -> None:
        """Write ``import/`` and ``packed/``, each whole or not at all."""
        assert source is not None
        twin = DequantizedExporter(dialect="transformers_4_51")
        try:
            twin.write(source.checkpoint, folder / IMPORT, source.tokenizer)
        except InputError as error:
            if "export.dequantized" not in str(error):
                raise
            raise InputError(
                f"{error}; of this finished run, {REWRITE}, then give folder=<run folder>/exports/dequantized "
                "action=preflight in place of run="
            ) from None
        CompressedTensorsExporter().write(source.checkpoint, folder / PACKED, source.tokenizer)

    def preflight(self, folder: Path) -> Preflight:
        """Rules 1 to 10, see :mod:`qat.deploy.bedrock.preflight`."""
        return preflight(self, import_folder(folder))

    def push(self, folder: Path, log: Console, dry_run: bool) -> None:
        """Upload, make the role if asked, import, wait, ask the model once in each request format."""
        from qat.deploy.bedrock.push import push  # needs the extra `deploy`

        push(self, folder, log, dry_run)

    def delete(self, folder: Path, log: Console, dry_run: bool) -> None:
        """Remove the model, the uploaded objects, and the role if a push made it."""
        from qat.deploy.bedrock.push import delete

        delete(self, folder, log, dry_run)


def import_folder(folder: Path) -> Path:
    """What is uploaded of ``folder``: its ``import/`` where :meth:`Bedrock.prepare` made it, else all of it.

    Raises:
        InputError: no such folder.
    """
    return part_of(folder, IMPORT, Bedrock.name)
