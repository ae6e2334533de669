"""Fixtures of the tests that talk to AWS: credentials that are no one's, a clock that does not sleep, S3 by moto."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from io import StringIO
from typing import Any

import boto3
import botocore.loaders
import botocore.session
import pytest
from fake_aws import FakeAws
from moto.server import ThreadedMotoServer
from rich.console import Console

from qat.deploy.aws.clients import Aws
from qat.deploy.aws.waiting import Clock

SECRET = "a-secret-of-nobody"
BUCKET = "models-of-nobody"


@dataclass
class Ticks:
    """Time that passes only while somebody sleeps."""

    slept: list[float] = field(default_factory=list)

    @property
    def clock(self) -> Clock:
        return Clock(now=lambda: sum(self.slept), sleep=self.slept.append, chance=lambda: 1.0)


@dataclass
class World:
    """One way to AWS with everything that a test looks at."""

    s3: Any
    s3_url: str
    ticks: Ticks
    out: StringIO
    log: Console

    def aws(self, dry_run: bool = False, **endpoints: str) -> Aws:
        return Aws("us-east-1", self.log, None, {"s3": self.s3_url, **endpoints}, dry_run, self.ticks.clock)

    @property
    def said(self) -> str:
        return self.out.getvalue()

    def held(self) -> set[str]:
        return {held["Key"] for held in self.s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])}


@cache
def _loader(*paths: str) -> Any:
    """One for all sessions: the models of the services are read once."""
    return botocore.loaders.Loader()


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDOFNOBODY",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(botocore.session, "create_loader", _loader)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def world(credentials: None, moto_url: str) -> Iterator[World]:
    client = boto3.client("s3", region_name="us-east-1", endpoint_url=moto_url)
    client.create_bucket(Bucket=BUCKET)
    out = StringIO()
    yield World(client, moto_url, Ticks(), out, Console(file=out, width=200))
    for one in client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []):
        client.abort_multipart_upload(Bucket=BUCKET, Key=one["Key"], UploadId=one["UploadId"])
    for held in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=held["Key"])
    client.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def fake(credentials: None) -> Iterator[FakeAws]:
    with FakeAws() as fake:
        yield fake
    assert not fake.faults
