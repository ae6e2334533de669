from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aws_world import BUCKET, World

from qat.deploy.aws import claim, upload
from qat.deploy.aws.calls import Call
from qat.deploy.aws.clients import Aws
from qat.deploy.aws.errors import AwsError
from qat.deploy.aws.ledger import Ledger, Stored
from qat.deploy.aws.s3 import S3Uri
from qat.errors import InputError, RunError

PART = 5 * 2**20  # the least that S3 takes
URI = S3Uri(BUCKET, "models/tiny")
WEIGHTS, CONFIG = "models/tiny/model.safetensors", "models/tiny/sub/config.json"
HERE = {"target": "bedrock", "region": "us-east-1", "s3_uri": str(URI)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file of five parts and a small one, beside notes of ours that stay here."""
    made = tmp_path / "import"
    (made / "sub").mkdir(parents=True)
    (made / "model.safetensors").write_bytes(bytes(range(256)) * (PART // 256) * 4 + b"end")
    (made / "sub" / "config.json").write_text("{}")
    (made / "preflight.json").write_text("ours")
    return made


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Every call, in order."""
    calls: list[Call] = []
    once = Aws._once

    def count(self: Aws, call: Call) -> dict[str, Any]:
        calls.append(call)
        return once(self, call)

    monkeypatch.setattr(Aws, "_once", count)
    return calls


def push(world: World, folder: Path, dry_run: bool = False) -> Ledger:
    aws = world.aws(dry_run)
    ledger = Ledger.begin(folder, dry_run, **HERE)
    upload.upload(aws, URI, upload.read(aws, folder, URI, PART), ledger, threads=3)
    return ledger


def numbers(sent: list[Call]) -> list[int]:
    return sorted(call.parameters["PartNumber"] for call in sent if call.operation == "UploadPart")


def content(world: World, key: str) -> bytes:
    return bytes(world.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())


def test_the_same_bytes_arrive_and_only_once(world: World, folder: Path, sent: list[Call]) -> None:
    ledger = push(world, folder)
    assert content(world, WEIGHTS) == (folder / "model.safetensors").read_bytes()
    assert world.held() == {WEIGHTS, CONFIG, "models/tiny.qat-push"}
    assert set(ledger.objects) == {WEIGHTS, CONFIG}
    assert numbers(sent) == [1, 2, 3, 4, 5]
    sent.clear()
    push(world, folder)
    assert numbers(sent) == []
    assert [call.parameters["Key"] for call in sent if call.operation == "PutObject"] == ["models/tiny.qat-push"]
    assert "2 of 2 files are there" in world.said


def test_a_changed_file_alone_is_sent_again(world: World, folder: Path, sent: list[Call]) -> None:
    push(world, folder)
    sent.clear()
    (folder / "sub" / "config.json").write_text("[]")  # of the same size
    push(world, folder)
    assert content(world, CONFIG) == b"[]"
    assert numbers(sent) == []


def test_what_the_folder_has_no_more_is_removed(world: World, folder: Path) -> None:
    push(world, folder)
    (folder / "sub" / "config.json").unlink()
    push(world, folder)
    assert CONFIG not in world.held()


def test_goes_on_after_a_failure_with_the_missing_parts(
    world: World, folder: Path, sent: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = Aws._once

    def fail(self: Aws, call: Call) -> dict[str, Any]:
        if call.operation == "UploadPart" and call.parameters["PartNumber"] in (2, 4):
            raise AwsError("denied", "AccessDenied", "denied")
        return count(self, call)

    monkeypatch.setattr(Aws, "_once", fail)
    with pytest.raises(AwsError, match="denied"):
        push(world, folder)
    arrived = set(numbers(sent))
    assert WEIGHTS not in world.held() and arrived < {1, 3, 5}.union(arrived) and not arrived & {2, 4}
    sent.clear()
    monkeypatch.setattr(Aws, "_once", count)
    push(world, folder)
    assert set(numbers(sent)) == {1, 2, 3, 4, 5} - arrived
    assert content(world, WEIGHTS) == (folder / "model.safetensors").read_bytes()
    assert world.s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []


KILLED = """
import os, signal, sys
from io import StringIO
from pathlib import Path
from rich.console import Console
from qat.deploy.aws import upload
from qat.deploy.aws.clients import Aws
from qat.deploy.aws.ledger import Ledger
from qat.deploy.aws.s3 import S3Uri

url, bucket, folder, part = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
once, parts = Aws._once, []

def until_the_third_part(self, call):
    if call.operation == "UploadPart":
        parts.append(call)
        if len(parts) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    return once(self, call)

Aws._once = until_the_third_part
aws, uri = Aws("us-east-1", Console(file=StringIO()), endpoints={"s3": url}), S3Uri(bucket, "models/tiny")
ledger = Ledger.begin(folder, False, target="bedrock", region="us-east-1", s3_uri=str(uri))
upload.upload(aws, uri, upload.read(aws, folder, uri, part), ledger, threads=1)
"""


@pytest.mark.slow
def test_goes_on_after_a_kill_with_the_missing_parts(world: World, folder: Path, sent: list[Call]) -> None:
    command = [sys.executable, "-c", KILLED, world.s3_url, BUCKET, str(folder), str(PART)]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert world.held() == {"models/tiny.qat-push"}
    push(world, folder)
    assert numbers(sent) == [3, 4, 5]
    assert content(world, WEIGHTS) == (folder / "model.safetensors").read_bytes()


def test_a_part_with_other_bytes_is_sent_again(world: World, folder: Path, sent: list[Call]) -> None:
    begun = world.s3.create_multipart_upload(Bucket=BUCKET, Key=WEIGHTS, ChecksumAlgorithm="SHA256")
    ids = {"Bucket": BUCKET, "Key": WEIGHTS, "UploadId": begun["UploadId"]}
    right = (folder / "model.safetensors").read_bytes()[PART : 2 * PART]
    world.s3.upload_part(**ids, PartNumber=1, Body=b"wrong" * (PART // 5))
    world.s3.upload_part(**ids, PartNumber=2, Body=right)
    push(world, folder)
    assert numbers(sent) == [1, 3, 4, 5]
    assert content(world, WEIGHTS) == (folder / "model.safetensors").read_bytes()


def test_refuses_a_prefix_with_objects_of_others(world: World, folder: Path) -> None:
    world.s3.put_object(Bucket=BUCKET, Key="models/tiny/optimizer.pt", Body=b"")
    with pytest.raises(InputError, match="holds models/tiny/optimizer.pt, which is not of this folder"):
        push(world, folder)
    assert "models/tiny/optimizer.pt" in world.held() and WEIGHTS not in world.held()


def test_refuses_to_write_over_an_object_of_others(world: World, folder: Path) -> None:
    world.s3.put_object(Bucket=BUCKET, Key=CONFIG, Body=b"theirs")
    with pytest.raises(InputError, match="holds models/tiny/sub/config.json, which is not of this folder"):
        push(world, folder)
    assert content(world, CONFIG) == b"theirs" and WEIGHTS not in world.held()


def test_an_equal_object_of_others_is_used_and_not_deleted(world: World, folder: Path, sent: list[Call]) -> None:
    world.s3.put_object(Bucket=BUCKET, Key=CONFIG, Body=b"{}", ChecksumAlgorithm="SHA256")
    push(world, folder)
    ledger = push(world, folder)
    assert CONFIG not in [call.parameters["Key"] for call in sent if call.operation == "PutObject"]
    (folder / "sub" / "config.json").write_text("[]")
    with pytest.raises(InputError, match="which is not of this folder"):
        push(world, folder)
    upload.remove(world.aws(), URI, ledger)
    assert world.held() == {CONFIG}


def test_what_another_push_holds_by_now_is_not_deleted(world: World, folder: Path) -> None:
    ledger = push(world, folder)
    claim.release(world.aws(), URI)
    claim.claim(world.aws(), URI, "another")
    upload.remove(world.aws(), URI, ledger)
    assert world.held() == {WEIGHTS, CONFIG, "models/tiny.qat-push"}
    assert "belongs to another push by now" in world.said


def test_a_bucket_that_is_gone_holds_nothing_to_delete(world: World) -> None:
    uri = S3Uri("gone-bucket", "models/tiny")
    ledger = Ledger(target="bedrock", region="us-east-1", s3_uri=str(uri))
    ledger.objects = {"models/tiny/config.json": Stored(size=1, sha256="00")}
    upload.remove(world.aws(), uri, ledger)
    assert ledger.objects == {} and "there is no bucket gone-bucket any more" in world.said


def test_two_pushes_do_not_mix(world: World, folder: Path, tmp_path: Path) -> None:
    push(world, folder)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    with pytest.raises(InputError, match="belongs to another push"):
        push(world, other)
    assert world.held() == {WEIGHTS, CONFIG, "models/tiny.qat-push"}


def test_finds_out_that_s3_holds_other_bytes(world: World, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = Aws._once

    def swap(self: Aws, call: Call) -> dict[str, Any]:
        answer = once(self, call)
        if call.operation == "CompleteMultipartUpload":
            world.s3.put_object(Bucket=BUCKET, Key=WEIGHTS, Body=b"other")
        return answer

    monkeypatch.setattr(Aws, "_once", swap)
    with pytest.raises(RunError, match="model.safetensors does not hold the bytes of"):
        push(world, folder)


def test_removes_what_it_made_and_nothing_else(world: World, folder: Path) -> None:
    ledger = push(world, folder)
    world.s3.put_object(Bucket=BUCKET, Key="models/tiny/mine", Body=b"")
    world.s3.delete_object(Bucket=BUCKET, Key=CONFIG)  # gone already
    world.s3.create_multipart_upload(Bucket=BUCKET, Key=WEIGHTS)
    upload.remove(world.aws(), URI, ledger)
    assert world.held() == {"models/tiny/mine"}
    assert world.s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []
    assert Ledger.read(folder).objects == {}


def test_a_dry_run_shows_what_a_push_sends(
    world: World, folder: Path, sent: list[Call], capsys: pytest.CaptureFixture[str]
) -> None:
    push(world, folder, dry_run=True)
    assert sent == [] and world.held() == set()
    shown = capsys.readouterr().out
    push(world, folder)
    for call in sent:
        if call.operation in ("UploadPart", "CompleteMultipartUpload"):
            parameters = {**call.parameters, "UploadId": "<upload id>"}
            assert str(Call("s3", call.operation, parameters)) in shown
        elif "qat-push" not in call.parameters.get("Key", ""):  # the id of a push is its own
            assert str(call) in shown
    told = Counter(call.operation for call in sent)
    rehearsed = Counter(json.loads(line)["operation"] for line in shown.splitlines())
    assert rehearsed >= told


@pytest.mark.parametrize(
    ("held", "equal"),
    [
        (lambda d: None, False),
        (lambda d: {"ContentLength": d.size + 1, "ChecksumSHA256": d.checksum}, False),
        (lambda d: {"ContentLength": d.size, "ChecksumSHA256": d.checksum}, True),
        (lambda d: {"ContentLength": d.size, "ChecksumSHA256": d.composite, "ChecksumType": "COMPOSITE"}, True),
        (lambda d: {"ContentLength": d.size, "ChecksumSHA256": "AA==", "Metadata": {"sha256": d.sha256.hex()}}, False),
        (
            lambda d: {
                "ContentLength": d.size,
                "ChecksumSHA256": "A-5",
                "ChecksumType": "COMPOSITE",
                "Metadata": {"sha256": d.sha256.hex()},
            },
            False,
        ),
        (
            lambda d: {
                "ContentLength": d.size,
                "ChecksumSHA256": "A-9",
                "ChecksumType": "COMPOSITE",
                "Metadata": {"sha256": d.sha256.hex()},
            },
            True,
        ),
        (lambda d: {"ContentLength": d.size, "Metadata": {"sha256": d.sha256.hex()}}, True),
        (lambda d: {"ContentLength": d.size, "Metadata": {"sha256": "00"}}, False),
        (lambda d: {"ContentLength": d.size}, False),
    ],
)
def test_what_counts_as_equal(folder: Path, held: Callable[[Any], Any], equal: bool) -> None:
    digest = upload.digest_of(folder / "model.safetensors", part=PART)
    assert upload.is_equal(held(digest), digest) is equal


def test_an_empty_folder(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no files to upload"):
        upload.read(world.aws(), tmp_path, URI)


def test_an_address_can_be_claimed_again_by_its_owner(world: World) -> None:
    aws = world.aws()
    claim.claim(aws, URI, "one")
    claim.claim(aws, URI, "one")
    with pytest.raises(InputError, match="belongs to another push .one."):
        claim.claim(aws, URI, "two")
    claim.release(aws, URI)
    claim.claim(aws, URI, "two")
