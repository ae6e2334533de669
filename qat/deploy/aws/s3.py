"""S3: addresses and the calls that an upload and a deletion make."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qat.deploy.aws.calls import Call, Section
from qat.deploy.aws.clients import Aws
from qat.deploy.aws.digest import Digest, Part, encode
from qat.errors import InputError, RunError

SHA256 = "SHA256"
_ADDRESS = re.compile(
    r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/([-!_*'().a-zA-Z0-9]+(?:/[-!_*'().a-zA-Z0-9]+)*)/?"  # bucket, prefix
)
_AT_ONCE = 1000
"""Keys that one DeleteObjects takes."""


@dataclass(frozen=True)
class S3Uri:
    """``s3://bucket/prefix``, the prefix without a slash at its ends."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, text: str | None) -> S3Uri:
        """Read an address.

        Raises:
            InputError: it is missing, is no S3 address, or has no prefix.

        Example:
            >>> S3Uri.parse("s3://bucket/models/tiny/")
            S3Uri(bucket='bucket', prefix='models/tiny')
        """
        found = _ADDRESS.fullmatch(text or "")
        if found is None:
            held = f"target.s3_uri '{text}' is no address of a prefix" if text else "target.s3_uri is not given"
            raise InputError(f"{held}; write s3://<bucket>/<prefix>")
        return cls(found[1], found[2])

    def key(self, name: str) -> str:
        """Of a file ``name`` below the prefix."""
        return f"{self.prefix}/{name}"

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}/"


def check_bucket(aws: Aws, uri: S3Uri) -> None:
    """Return if the bucket is there and may be used.

    Raises:
        InputError: there is none of that name, or not for this caller.
    """
    if not has_bucket(aws, uri):
        raise InputError(f"there is no bucket {uri.bucket}; make it (aws s3 mb s3://{uri.bucket}) or name another")


def has_bucket(aws: Aws, uri: S3Uri) -> bool:
    """Whether the bucket is there.

    Raises:
        AwsError: it is, and not for this caller.
    """
    return aws.find(Call("s3", "HeadBucket", {"Bucket": uri.bucket}), {}) is not None


def head(aws: Aws, uri: S3Uri, key: str, rehearsed: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """What S3 holds under ``key``, with its checksum; None if nothing."""
    return aws.find(Call("s3", "HeadObject", {"Bucket": uri.bucket, "Key": key, "ChecksumMode": "ENABLED"}), rehearsed)


def put(aws: Aws, uri: S3Uri, key: str, digest: Digest) -> None:
    """Upload a file in one request; S3 refuses it if the bytes that arrive have another checksum."""
    parameters = {
        "Bucket": uri.bucket,
        "Key": key,
        "Body": Section(digest.path, 0, digest.size),
        "ChecksumAlgorithm": SHA256,
        "ChecksumSHA256": digest.checksum,
        "Metadata": {"sha256": digest.sha256.hex()},
    }
    aws.send(Call("s3", "PutObject", parameters))


def begin(aws: Aws, uri: S3Uri, key: str, digest: Digest) -> str:
    """Start an upload in parts and return its id."""
    parameters = {
        "Bucket": uri.bucket,
        "Key": key,
        "ChecksumAlgorithm": SHA256,
        "ChecksumType": "COMPOSITE",
        "Metadata": {"sha256": digest.sha256.hex()},
    }
    answer = aws.send(Call("s3", "CreateMultipartUpload", parameters), {"UploadId": "<upload id>"})
    return str(answer["UploadId"])


def put_part(aws: Aws, uri: S3Uri, key: str, upload: str, number: int, part: Part) -> str:
    """Upload one part and return its ETag."""
    parameters = {
        "Bucket": uri.bucket,
        "Key": key,
        "UploadId": upload,
        "PartNumber": number,
        "Body": part.section,
        "ChecksumAlgorithm": SHA256,
        "ChecksumSHA256": encode(part.sha256),
    }
    return str(aws.send(Call("s3", "UploadPart", parameters), {"ETag": f'"{part.md5}"'})["ETag"])


def complete(aws: Aws, uri: S3Uri, key: str, upload: str, digest: Digest, etags: Mapping[int, str]) -> None:
    """End an upload in parts; one that S3 no longer knows was ended by an earlier attempt, whose answer was lost."""
    parts = [
        {"PartNumber": number, "ETag": etags[number], "ChecksumSHA256": encode(part.sha256)}
        for number, part in enumerate(digest.parts, start=1)
    ]
    ids = {"Bucket": uri.bucket, "Key": key, "UploadId": upload}
    aws.find(Call("s3", "CompleteMultipartUpload", {**ids, "MultipartUpload": {"Parts": parts}}), {})


def abort(aws: Aws, uri: S3Uri, key: str, upload: str) -> None:
    """Give up an upload, so that its parts are no longer paid for."""
    aws.remove(Call("s3", "AbortMultipartUpload", {"Bucket": uri.bucket, "Key": key, "UploadId": upload}))


def uploads(aws: Aws, uri: S3Uri) -> list[dict[str, Any]]:
    """Every upload in parts below the prefix that was begun and not ended, the latest last."""
    found = _pages(
        aws,
        Call("s3", "ListMultipartUploads", {"Bucket": uri.bucket, "Prefix": f"{uri.prefix}/"}),
        {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"},
    )
    return sorted((upload for page in found for upload in page.get("Uploads", [])), key=lambda one: one["Initiated"])


def parts(aws: Aws, uri: S3Uri, key: str, upload: str) -> list[dict[str, Any]]:
    """The parts that have arrived."""
    call = Call("s3", "ListParts", {"Bucket": uri.bucket, "Key": key, "UploadId": upload})
    pages = _pages(aws, call, {"PartNumberMarker": "NextPartNumberMarker"})
    return [part for page in pages for part in page.get("Parts", [])]


def keys(aws: Aws, uri: S3Uri) -> list[str]:
    """Every key below the prefix."""
    call = Call("s3", "ListObjectsV2", {"Bucket": uri.bucket, "Prefix": f"{uri.prefix}/"})
    pages = _pages(aws, call, {"ContinuationToken": "NextContinuationToken"})
    return [held["Key"] for page in pages for held in page.get("Contents", [])]


def delete(aws: Aws, uri: S3Uri, names: Sequence[str]) -> None:
    """Delete these keys and no others; one that is gone already is no error.

    Raises:
        RunError: S3 kept one.
    """
    for start in range(0, len(names), _AT_ONCE):
        objects = [{"Key": name} for name in names[start : start + _AT_ONCE]]
        answer = aws.send(Call("s3", "DeleteObjects", {"Bucket": uri.bucket, "Delete": {"Objects": objects}}))
        for error in answer.get("Errors", []):
            raise RunError(f"S3 kept {error.get('Key')} ({error.get('Code')}: {error.get('Message')})")


def _pages(aws: Aws, call: Call, markers: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The answers to a call that lists, one after the other."""
    parameters = dict(call.parameters)
    while True:
        page = aws.send(Call(call.service, call.operation, parameters))
        yield page
        if not page.get("IsTruncated"):
            return
        parameters |= {sent: page[given] for sent, given in markers.items()}
