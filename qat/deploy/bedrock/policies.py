"""The policies of rule 10, as AWS's pages write them: who may take the role, what it may read, who may use the key.

Each is a document for ``json.dumps``. A key has one policy, in which somebody must keep the right to change it, so
:func:`key_statement` is a statement to add to it and no whole policy.
"""

from __future__ import annotations

import re
from typing import Any

from qat.errors import InputError

Document = dict[str, Any]

SERVICE = "bedrock.amazonaws.com"
READ_ACTIONS = ("s3:GetObject", "s3:ListBucket")
KEY_ACTIONS = ("kms:Decrypt", "kms:GenerateDataKey", "kms:DescribeKey", "kms:CreateGrant")
_VERSION = "2012-10-17"


def trust_policy(account: str, region: str) -> Document:
    """Who may take the role: Bedrock, for import jobs of this account in this region alone.

    Args:
        account: 12 digits.
        region: of the import jobs.

    Raises:
        InputError: no account number.
    """
    conditions = {
        "StringEquals": {"aws:SourceAccount": _account(account)},
        "ArnEquals": {"aws:SourceArn": job_arns(account, region)},
    }
    principal = {"Service": SERVICE}
    return _policy({"Principal": principal, "Action": "sts:AssumeRole", "Condition": conditions})


def permission_policy(account: str, s3_uri: str) -> Document:
    """What the role may do: read below ``s3_uri`` and list its bucket, if the bucket is this account's.

    Args:
        account: 12 digits, of the owner of the bucket.
        s3_uri: ``s3://bucket/prefix``.

    Raises:
        InputError: no account number.
    """
    condition = {"StringEquals": {"aws:ResourceAccount": _account(account)}}
    resources = [*resource_arns(s3_uri).values()]
    return _policy({"Action": [*READ_ACTIONS], "Resource": resources, "Condition": condition})


def key_statement(role_arn: str) -> Document:
    """What to add to the policy of a customer's key, so that the caller ``role_arn`` imports and uses the model."""
    return {
        "Sid": "BedrockModelImport",
        "Effect": "Allow",
        "Principal": {"AWS": role_arn},
        "Action": [*KEY_ACTIONS],
        "Resource": "*",
    }


def job_arns(account: str, region: str) -> str:
    """Pattern of the ARNs of import jobs."""
    return f"arn:aws:bedrock:{region}:{account}:model-import-job/*"


def resource_arns(s3_uri: str) -> dict[str, str]:
    """Action -> the ARN that it is needed on.

    Example:
        >>> resource_arns("s3://bucket/tiny/")
        {'s3:ListBucket': 'arn:aws:s3:::bucket', 's3:GetObject': 'arn:aws:s3:::bucket/tiny/*'}
    """
    bucket, _, prefix = s3_uri.removeprefix("s3://").rstrip("/").partition("/")
    below = f"{bucket}/{prefix}/*" if prefix else f"{bucket}/*"
    return {"s3:ListBucket": f"arn:aws:s3:::{bucket}", "s3:GetObject": f"arn:aws:s3:::{below}"}


def _policy(statement: Document) -> Document:
    return {"Version": _VERSION, "Statement": [{"Effect": "Allow", **statement}]}


def _account(account: str) -> str:
    if not re.fullmatch(r"[0-9]{12}", account):
        raise InputError(f"account '{account}' is no AWS account; give its 12 digits: target.account='123456789012'")
    return account
