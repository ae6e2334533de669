"""Whose an S3 address is: one small object beside it, ``<prefix>.qat-push``, that holds the id of a push.

S3 writes it only if there is none (``If-None-Match: *``), so of two pushes to one address, from any machines, exactly
one gets it. It stays as long as what was pushed: a push that was killed finds its own id and goes on, another one is
refused. It lies beside the prefix and not below it, since an import takes everything below.
"""

from __future__ import annotations

from qat.deploy.aws.calls import Call
from qat.deploy.aws.clients import Aws
from qat.deploy.aws.errors import AwsError
from qat.deploy.aws.s3 import S3Uri
from qat.errors import InputError

SUFFIX = ".qat-push"


def claim(aws: Aws, uri: S3Uri, push_id: str) -> None:
    """Make ``uri`` ours.

    Raises:
        InputError: it is another push's.
    """
    place = {"Bucket": uri.bucket, "Key": uri.prefix + SUFFIX}
    try:
        aws.send(Call("s3", "PutObject", {**place, "Body": push_id.encode(), "IfNoneMatch": "*"}))
    except AwsError as error:
        if error.code not in ("PreconditionFailed", "412"):
            raise
        holder = aws.send(Call("s3", "GetObject", place))["Body"].decode(errors="replace")
        if holder != push_id:
            raise InputError(
                f"{uri} belongs to another push ({holder[:40]}); push to another prefix, or delete that one from the "
                f"folder it came from; if that folder is lost, delete {uri} and s3://{uri.bucket}/{uri.prefix}{SUFFIX}"
            ) from None


def is_ours(aws: Aws, uri: S3Uri, push_id: str) -> bool:
    """Whether no other push holds ``uri``: we do, or nobody does any more."""
    place = {"Bucket": uri.bucket, "Key": uri.prefix + SUFFIX}
    held = aws.find(Call("s3", "GetObject", place), {"Body": push_id.encode()})
    return held is None or held["Body"].decode(errors="replace") == push_id


def release(aws: Aws, uri: S3Uri) -> None:
    """Give ``uri`` up."""
    aws.remove(Call("s3", "DeleteObject", {"Bucket": uri.bucket, "Key": uri.prefix + SUFFIX}))
