from __future__ import annotations

import pytest
from aws_world import BUCKET, World

from qat.deploy.aws import s3
from qat.deploy.aws.calls import Call
from qat.deploy.aws.s3 import S3Uri
from qat.errors import InputError


def test_reads_an_address() -> None:
    assert S3Uri.parse("s3://bucket/a/b.c/") == S3Uri("bucket", "a/b.c")
    assert str(S3Uri("bucket", "a")) == "s3://bucket/a/"
    assert S3Uri("bucket", "a").key("x/y") == "a/x/y"


@pytest.mark.parametrize(
    "text", ["s3://bucket", "s3://bucket/", "s3://Bucket/a", "https://bucket/a", "s3://b/a b", "s3://bucket//a"]
)
def test_refuses_what_is_no_address(text: str) -> None:
    with pytest.raises(InputError, match=r"is no address of a prefix; write s3://<bucket>/<prefix>"):
        S3Uri.parse(text)


def test_an_address_is_needed() -> None:
    with pytest.raises(InputError, match="target.s3_uri is not given"):
        S3Uri.parse(None)


def test_no_bucket(world: World) -> None:
    with pytest.raises(InputError, match="there is no bucket of-nobody-else"):
        s3.check_bucket(world.aws(), S3Uri("of-nobody-else", "a"))


def test_lists_and_deletes_page_by_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_AT_ONCE", 2)
    names = [f"a/{index}" for index in range(5)]
    for name in [*names, "ab/0"]:
        world.s3.put_object(Bucket=BUCKET, Key=name, Body=b"")
    aws, uri = world.aws(), S3Uri(BUCKET, "a")
    listing = Call("s3", "ListObjectsV2", {"Bucket": BUCKET, "Prefix": "a/", "MaxKeys": 2})
    pages = [*s3._pages(aws, listing, {"ContinuationToken": "NextContinuationToken"})]
    assert [len(page["Contents"]) for page in pages] == [2, 2, 1]
    assert s3.keys(aws, uri) == names
    s3.delete(aws, uri, ["a/0", "a/1", "a/2", "a/none"])
    assert world.held() == {"a/3", "a/4", "ab/0"}
