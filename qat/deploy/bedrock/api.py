"""Bedrock's calls: the role, the import job, the imported model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qat.deploy.aws.calls import Call
from qat.deploy.aws.clients import Aws
from qat.deploy.aws.errors import AwsError
from qat.deploy.aws.waiting import Pauses, wait_for
from qat.deploy.bedrock.policies import permission_policy, trust_policy
from qat.errors import InputError, RunError

POLLING = Pauses(first=15.0, longest=120.0, total=0.0, factor=1.5)
"""Between looks at a job; how long in all is an option of the target."""

_UNTIL_ROLE_IS_KNOWN = Pauses(first=5.0, longest=15.0, total=90.0)
_REHEARSED_ACCOUNT = "000000000000"


@dataclass(frozen=True)
class Import:
    """What a job imports.

    Attributes:
        job: its name.
        token: with which AWS knows the same request again, so that a second one makes no second job.
        model: name of the model that is made.
        role: ARN that Bedrock reads S3 with.
        s3_uri: of the folder.
        kms_key: for the model; None: one of AWS's.
        tags: of job and model.
        subnets: of the VPC that the job runs in, with ``security_groups``.
        security_groups: see there.
    """

    job: str
    token: str
    model: str
    role: str
    s3_uri: str
    kms_key: str | None = None
    tags: Mapping[str, str] | None = None
    subnets: Sequence[str] = ()
    security_groups: Sequence[str] = ()

    @property
    def call(self) -> Call:
        """CreateModelImportJob."""
        parameters: dict[str, Any] = {
            "jobName": self.job,
            "importedModelName": self.model,
            "roleArn": self.role,
            "modelDataSource": {"s3DataSource": {"s3Uri": self.s3_uri}},
            "clientRequestToken": self.token,
        }
        if self.tags:
            parameters["jobTags"] = parameters["importedModelTags"] = [
                {"key": key, "value": value} for key, value in self.tags.items()
            ]
        if self.kms_key is not None:
            parameters["importedModelKmsKeyId"] = self.kms_key
        if self.subnets or self.security_groups:
            groups = [*self.security_groups]
            parameters["vpcConfig"] = {"subnetIds": [*self.subnets], "securityGroupIds": groups}
        return Call("bedrock", "CreateModelImportJob", parameters)


def account_of(aws: Aws) -> str:
    """The 12 digits of the caller's account."""
    answer = aws.send(Call("sts", "GetCallerIdentity", {}), {"Account": _REHEARSED_ACCOUNT})
    return str(answer["Account"])


def create_role(aws: Aws, name: str, account: str, s3_uri: str, tags: Mapping[str, str]) -> str:
    """Make the role of rule 10, or find it half made, and return its ARN."""
    found = aws.find(Call("iam", "GetRole", {"RoleName": name}))
    if found is None:
        role: dict[str, Any] = {
            "RoleName": name,
            "AssumeRolePolicyDocument": json.dumps(trust_policy(account, aws.region)),
            "Description": "Bedrock reads a model to import with it; made by qat deploy",
        }
        if tags:
            role["Tags"] = [{"Key": key, "Value": value} for key, value in tags.items()]
        rehearsed = {"Role": {"Arn": f"arn:aws:iam::{account}:role/{name}"}}
        found = aws.send(Call("iam", "CreateRole", role), rehearsed)
    policy = json.dumps(permission_policy(account, s3_uri))
    aws.send(Call("iam", "PutRolePolicy", {"RoleName": name, "PolicyName": name, "PolicyDocument": policy}))
    return str(found["Role"]["Arn"])


def has_role(aws: Aws, name: str) -> bool:
    """Whether there is a role of that name."""
    return aws.find(Call("iam", "GetRole", {"RoleName": name})) is not None


def delete_role(aws: Aws, name: str) -> None:
    """Remove a role that :func:`create_role` made; what is gone already is no error."""
    aws.remove(Call("iam", "DeleteRolePolicy", {"RoleName": name, "PolicyName": name}))
    aws.remove(Call("iam", "DeleteRole", {"RoleName": name}))


def start_import(aws: Aws, wanted: Import) -> str:
    """Start the job, or find the one that an earlier call with this token started; return its ARN.

    IAM needs some seconds to make a new role known everywhere, so a refusal of the role is asked again for a while.
    """
    rehearsed = {"jobArn": f"arn:aws:bedrock:{aws.region}:{_REHEARSED_ACCOUNT}:model-import-job/000000000000"}
    answer = aws.send(wanted.call, rehearsed, _UNTIL_ROLE_IS_KNOWN, again=_may_be_new_role)
    return str(answer["jobArn"])


def job_of(aws: Aws, identifier: str) -> dict[str, Any] | None:
    """A job by ARN or name; None if there is none."""
    model = f"arn:aws:bedrock:{aws.region}:{_REHEARSED_ACCOUNT}:imported-model/000000000000"
    rehearsed = {"status": "Completed", "importedModelArn": model}
    return aws.find(Call("bedrock", "GetModelImportJob", {"jobIdentifier": identifier}), rehearsed)


def wait_for_import(aws: Aws, job_arn: str, hours: float) -> str:
    """Wait until the job has ended and return the ARN of the model.

    Raises:
        RunError: it failed, in AWS's own words, or does not end within ``hours``.
    """

    def look() -> tuple[str, str | None]:
        job = job_of(aws, job_arn)
        if job is None:
            raise ImportFailed(f"AWS no longer knows {job_arn}; push again for a new job")
        if job["status"] == "Failed":
            why = job.get("failureMessage", "no reason given")
            raise ImportFailed(f"the import failed: {why}; put that right, check with action=preflight and push again")
        return job["status"], str(job["importedModelArn"]) if job["status"] == "Completed" else None

    def late(status: str) -> str:
        return f"{job_arn} still runs after {hours:g} h ({status}); push again to wait on, or set target.job_hours"

    pauses = replace(POLLING, total=hours * 3600)
    return wait_for(look, pauses, aws.clock, lambda told: aws.say(f"import job: {told}", "dim"), late)


class ImportFailed(RunError):
    """The job ended without a model: another one is needed."""


def model_of(aws: Aws, identifier: str) -> dict[str, Any]:
    """The imported model by ARN or name.

    Raises:
        RunError: there is none.
    """
    rehearsed = {"modelName": "", "modelArchitecture": "", "instructSupported": True}
    found = aws.find(Call("bedrock", "GetImportedModel", {"modelIdentifier": identifier}), rehearsed)
    if found is None:
        raise ImportFailed(f"{identifier} was imported and is gone; push again to import it anew")
    return found


def delete_model(aws: Aws, identifier: str) -> bool:
    """Delete the imported model; False if it was gone already."""
    return aws.remove(Call("bedrock", "DeleteImportedModel", {"modelIdentifier": identifier}))


def check_role_option(role_arn: str | None, create: bool) -> None:
    """Return if the options say which role to use.

    Raises:
        InputError: none, or two.
    """
    if role_arn is None and not create:
        raise InputError(
            "no role that Bedrock may read the bucket with: give target.role_arn=<arn> of one with the policies above, "
            "or have it made with target.create_role=true"
        )
    if role_arn is not None and create:
        raise InputError("target.role_arn and target.create_role=true are two roles; leave one out")


def _may_be_new_role(error: AwsError) -> bool:
    about_role = error.code in ("ValidationException", "AccessDeniedException") and "role" in error.told.lower()
    return error.transient or about_role
