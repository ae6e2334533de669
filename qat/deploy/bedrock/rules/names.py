"""Rule 9: names, ARNs and places, by the patterns of botocore's own service model.

botocore holds the patterns and does not check them: without this a wrong name is found by AWS, after the upload.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from qat.deploy.bedrock import sources
from qat.deploy.bedrock.subject import Subject
from qat.deploy.checks import Check, Rule, rule
from qat.errors import InputError, nearest

REGIONS = ("us-east-1", "us-east-2", "us-west-2", "eu-central-1")
_LONGEST = 63
_VALID = {
    "jobName": "job",
    "importedModelName": "model",
    "roleArn": "arn:aws:iam::123456789012:role/role",
    "modelDataSource": {"s3DataSource": {"s3Uri": "s3://bucket/prefix"}},
}
"""A request that AWS's model takes, to try one parameter at a time in."""


@rule("bedrock.9.region", "Region", ", ".join(REGIONS), sources.IMPORT)
def region(rule: Rule, subject: Subject) -> Check:
    held = subject.target.region
    return rule.unless("" if held in REGIONS else held, f"target.region={REGIONS[0]}{nearest(held, REGIONS)}", held)


@rule("bedrock.9.model_name", "importedModelName", "1 to 63 of ([0-9a-zA-Z][_-]?)+", sources.API)
def model_name(rule: Rule, subject: Subject) -> Check:
    name = default_model_name(subject.target.model_name, subject.target.s3_uri)
    return _named(rule, name, "model_name", importedModelName=name)


@rule("bedrock.9.job_name", "jobName", r"1 to 63 of [a-zA-Z0-9](-*[a-zA-Z0-9\+\-\.])*", sources.API)
def job_name(rule: Rule, subject: Subject) -> Check:
    target = subject.target
    name, model = target.job_name, default_model_name(target.model_name, target.s3_uri)
    if name is None and model is not None:
        name = default_job_name(model, datetime.now(UTC))
    return _named(rule, name, "job_name", jobName=name)


@rule("bedrock.9.s3_uri", "s3Uri", "s3://<bucket>/<prefix> in the characters of S3", sources.API)
def s3_uri(rule: Rule, subject: Subject) -> Check:
    held = subject.target.s3_uri
    check = _named(rule, held, "s3_uri", modelDataSource=_data(held))
    if check.status == "pass" and "/" not in str(held).removeprefix("s3://").rstrip("/"):
        return rule.warned(f"{held} is a whole bucket, which a push does not take", f"target.s3_uri={held}/<prefix>")
    return check


@rule("bedrock.9.role_arn", "roleArn", "arn:aws:iam::<account>:role/<name>", sources.API)
def role_arn(rule: Rule, subject: Subject) -> Check:
    target = subject.target
    if target.role_arn is not None and target.create_role:
        return rule.failed(f"{target.role_arn} and create_role: two roles", "leave one of them out")
    if target.create_role:
        return rule.passed(f"made by a push: {target.role_name}")
    return _named(rule, target.role_arn, "role_arn", roleArn=target.role_arn)


@rule("bedrock.9.kms_key", "importedModelKmsKeyId", "none, or the key's id, alias or ARN", sources.API)
def kms_key(rule: Rule, subject: Subject) -> Check:
    held = subject.target.kms_key
    if held is None:
        return rule.passed("none: a key of AWS's own")
    return _named(rule, held, "kms_key", importedModelKmsKeyId=held)


@rule(
    "bedrock.9.options", "Account, tags and VPC", "12 digits; tags, subnets and groups as AWS writes them", sources.API
)
def options(rule: Rule, subject: Subject) -> Check:
    target = subject.target
    parameters: dict[str, Any] = {"jobTags": [{"key": key, "value": value} for key, value in target.tags.items()]}
    if target.subnet_ids or target.security_group_ids:  # AWS takes both or neither
        parameters["vpcConfig"] = {"subnetIds": target.subnet_ids, "securityGroupIds": target.security_group_ids}
    found = f"{len(target.tags)} tags, {len(target.subnet_ids)} subnets, {len(target.security_group_ids)} groups"
    account = target.account
    if account is not None and not re.fullmatch(r"[0-9]{12}", account):
        return rule.failed(f"account {account}", "give its 12 digits in quotes: target.account=\"'123456789012'\"")
    return rule.unless(misfit(**parameters), "correct target.tags, target.subnet_ids, target.security_group_ids", found)


def default_model_name(given: str | None, s3_uri: str | None) -> str | None:
    """``given``, else a name made of the end of ``s3_uri``; None without either.

    Example:
        >>> default_model_name(None, "s3://bucket/models/tiny llama.v2/")
        'tiny-llama-v2'
    """
    if given is not None or s3_uri is None:
        return given
    words = re.findall(r"[0-9a-zA-Z]+", s3_uri.removeprefix("s3://").rstrip("/").rpartition("/")[2])
    return "-".join(words)[:_LONGEST].rstrip("-") or None


def default_job_name(model: str, now: datetime) -> str:
    """A job name that no earlier job has, since AWS takes each once.

    Example:
        >>> default_job_name("tiny-llama", datetime(2026, 11, 24, 15, 0, tzinfo=UTC))
        'tiny-llama-20261124-150000'
    """
    stamp = now.strftime("-%Y%m%d-%H%M%S")
    return re.sub(r"[^0-9a-zA-Z]+", "-", model)[: _LONGEST - len(stamp)].strip("-") + stamp


def misfit(**parameters: Any) -> str:
    """What the service model has against these parameters of a CreateModelImportJob; empty if nothing.

    Raises:
        InputError: boto3 is not installed.
    """
    from qat.deploy.aws.calls import Call  # needs the extra `deploy`

    try:
        Call("bedrock", "CreateModelImportJob", _VALID | parameters).check()
    except InputError as error:
        return str(error).partition(": ")[2]
    return ""


def _named(rule: Rule, value: str | None, option: str, **parameters: Any) -> Check:
    if value is None:
        return rule.not_run("not given", f"target.{option}=<as allowed>")
    return rule.unless(misfit(**parameters), f"target.{option}=<as allowed>", value)


def _data(s3_uri: str | None) -> dict[str, Any]:
    return {"s3DataSource": {"s3Uri": s3_uri}}
