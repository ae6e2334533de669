"""The way to Bedrock and back: upload, role, job, model, a first question; and the deletion of all of it.

Every step is written to ``pushed.json`` before the next one, so that a push that was cut off goes on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from pydantic import Field
from rich.console import Console

from qat.deploy.aws.calls import Call
from qat.deploy.aws.clients import Aws, connect
from qat.deploy.aws.deletion import deleting
from qat.deploy.aws.ledger import Ledger
from qat.deploy.aws.s3 import S3Uri
from qat.deploy.aws.upload import Digests, read, remove, upload
from qat.deploy.aws.waiting import Clock
from qat.deploy.bedrock import api
from qat.deploy.bedrock.invoke import smoke
from qat.deploy.bedrock.policies import permission_policy, trust_policy
from qat.deploy.bedrock.rules.names import default_job_name, default_model_name
from qat.deploy.bedrock.target import Bedrock, import_folder
from qat.deploy.pushed import alone
from qat.errors import InputError, RunError

SERVICES = ("s3", "sts", "iam", "bedrock", "bedrock-runtime")


class BedrockLedger(Ledger):
    """What a push to Bedrock made.

    Attributes:
        role: name of the role that was made; None: none was.
        role_arn: the role in use.
        model_name: of the model.
        job_name: of the job; None before one was asked for, and after it failed.
        job_token: see :class:`~qat.deploy.bedrock.api.Import`.
        job_request: what the job was asked for with.
        job_arn: None until AWS has answered.
        model_arn: None until the job has ended.
    """

    target: Literal["bedrock"] = "bedrock"
    role: str | None = None
    role_arn: str | None = None
    model_name: str | None = None
    job_name: str | None = None
    job_token: str | None = None
    job_request: dict[str, Any] = Field(default_factory=dict)
    job_arn: str | None = None
    model_arn: str | None = None

    def forget_job(self) -> None:
        """Have the next push start another job."""
        self.job_name = self.job_token = self.job_arn = self.model_arn = None
        self.job_request = {}
        self.save()


@dataclass(frozen=True)
class _Push:
    """One push under way."""

    target: Bedrock
    aws: Aws
    uri: S3Uri
    ledger: BedrockLedger

    def run(self, source: Path) -> None:
        self.choose_role()
        wanted = self.job("arn:aws:iam::000000000000:role/checked-before-the-upload").call
        wanted.check()
        digests = read(self.aws, source, self.uri)
        self.check_same(wanted, digests)
        upload(self.aws, self.uri, digests, self.ledger, self.target.upload_threads)
        self.make_role()
        try:
            self.import_model()
            self.try_model()
        except api.ImportFailed:
            self.ledger.forget_job()
            raise

    def choose_role(self) -> None:
        """Stop before the upload if there will be no role after it."""
        target, aws = self.target, self.aws
        if target.role_arn is None and not target.create_role:
            account = target.account or api.account_of(aws)
            aws.say(f"trust policy:\n{json.dumps(trust_policy(account, target.region), indent=2)}")
            aws.say(f"permission policy:\n{json.dumps(permission_policy(account, str(self.uri)), indent=2)}")
        api.check_role_option(target.role_arn, target.create_role)
        if target.create_role:
            self.check_role_name()

    def check_role_name(self) -> None:
        """A role of others is neither changed nor, later, deleted."""
        name = self.target.role_name
        if self.ledger.role is None and api.has_role(self.aws, name):
            raise InputError(
                f"there is a role {name} that no push from this folder made; use it with target.role_arn, "
                "or have another one made: target.role_name=<name>"
            )

    def make_role(self) -> None:
        target, ledger = self.target, self.ledger
        if target.role_arn is not None:
            ledger.role_arn = target.role_arn
        elif ledger.role_arn is None:
            self.check_role_name()  # again: the upload may have taken hours
            ledger.role = target.role_name  # before it exists: a deletion must know
            ledger.save()
            account = target.account or api.account_of(self.aws)
            ledger.role_arn = api.create_role(self.aws, target.role_name, account, str(self.uri), target.tags)
        ledger.save()

    def check_same(self, wanted: Call, digests: Digests) -> None:
        """A model that was imported does not change with the folder, nor with the options."""
        if self.ledger.job_arn is None:
            return
        now = {key: held.sha256.hex() for key, held in digests.items()}
        before = {key: held.sha256 for key, held in self.ledger.objects.items()}
        changed = sorted(dict(now.items() ^ before.items()))
        asked, asks = self.ledger.job_request, wanted.parameters
        changed += [key for key in sorted({**asked, **asks}) if key != "roleArn" and asked.get(key) != asks.get(key)]
        if changed:
            raise InputError(
                f"{changed[0]} is not as it was when {self.ledger.model_name} was imported; delete that first "
                "(qat deploy target=bedrock action=delete), or push the new folder to another target.s3_uri from there"
            )

    def job(self, role: str) -> api.Import:
        """What to import; names that are not given, and the token, stay the same until a job fails."""
        target, ledger = self.target, self.ledger
        model = target.model_name or ledger.model_name or default_model_name(None, str(self.uri)) or "model"
        return api.Import(
            job=target.job_name or ledger.job_name or default_job_name(model, datetime.now(UTC)),
            token=ledger.job_token or str(uuid4()),
            model=model,
            role=role,
            s3_uri=str(self.uri),
            kms_key=target.kms_key,
            tags=target.tags,
            subnets=target.subnet_ids,
            security_groups=target.security_group_ids,
        )

    def import_model(self) -> None:
        ledger = self.ledger
        if ledger.job_arn is None:
            assert ledger.role_arn is not None
            wanted = self.job(ledger.role_arn)
            ledger.model_name, ledger.job_name, ledger.job_token = wanted.model, wanted.job, wanted.token
            ledger.job_request = dict(wanted.call.parameters)
            ledger.save()
            ledger.job_arn = api.start_import(self.aws, wanted)
            ledger.save()
        if ledger.model_arn is None:
            ledger.model_arn = api.wait_for_import(self.aws, ledger.job_arn, self.target.job_hours)
            ledger.save()

    def try_model(self) -> None:
        assert self.ledger.model_arn is not None
        model = api.model_of(self.aws, self.ledger.model_arn)
        if not self.aws.dry_run:
            units = model.get("customModelUnits", {})
            self.aws.say(
                f"{self.ledger.model_arn}: {model.get('modelArchitecture')}, "
                f"{units.get('customModelUnitsPerModelCopy', '?')} Custom Model Units a copy "
                f"(version {units.get('customModelUnitsVersion', '?')})"
            )
        instruct = bool(model.get("instructSupported", True))
        smoke(self.aws, self.ledger.model_arn, self.target.smoke_prompt, instruct, self.target.ready_minutes)


def push(target: Bedrock, folder: Path, log: Console, dry_run: bool, clock: Clock | None = None) -> None:
    """See :meth:`qat.deploy.bedrock.target.Bedrock.push`."""
    uri, source = S3Uri.parse(target.s3_uri), import_folder(folder)
    aws = connect(target, SERVICES, log, dry_run, clock)
    with alone(folder, dry_run):
        ledger = BedrockLedger.begin(folder, dry_run, target=target.name, region=target.region, s3_uri=str(uri))
        _Push(target, aws, uri, ledger).run(source)


def delete(target: Bedrock, folder: Path, log: Console, dry_run: bool, clock: Clock | None = None) -> None:
    """See :meth:`qat.deploy.bedrock.target.Bedrock.delete`.

    Raises:
        RunError: the import job still runs: AWS has no call that ends one.
    """
    with deleting(target, SERVICES, BedrockLedger, folder, log, dry_run, clock) as (aws, uri, ledger):
        _delete_model(aws, ledger)
        remove(aws, uri, ledger)
        if ledger.role is not None:
            api.delete_role(aws, ledger.role)


def _delete_model(aws: Aws, ledger: BedrockLedger) -> None:
    if ledger.model_arn is None and (identifier := ledger.job_arn or ledger.job_name) is not None:
        job = api.job_of(aws, identifier)
        if job is not None and job["status"] == "InProgress":
            raise RunError(f"{identifier} still runs, and AWS has no call that ends it; delete when it has ended")
        ledger.model_arn = (job or {}).get("importedModelArn")
    if ledger.model_arn is not None:
        api.delete_model(aws, ledger.model_arn)
    ledger.forget_job()
