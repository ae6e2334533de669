from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aws_world import BUCKET, World
from fake_aws import Drop, FakeAws, Refuse

from qat.deploy.aws.errors import AwsError
from qat.deploy.pushed import PUSHED
from qat.deploy.sagemaker import api
from qat.deploy.sagemaker.push import SageMakerLedger, delete, push
from qat.deploy.sagemaker.target import SageMaker
from qat.errors import InputError, RunError

ROLE = "arn:aws:iam::123456789012:role/Serve"
ARN = "arn:aws:sagemaker:us-east-1:123456789012"
ABSENT = Refuse("ValidationException", "Could not find it")
KEYS = {"tiny/config.json", "tiny/model.safetensors", "tiny.qat-push"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "sagemaker"
    (made / "model").mkdir(parents=True)
    (made / "model" / "config.json").write_text("{}")
    (made / "model" / "model.safetensors").write_bytes(b"integers")
    (made / "model.tar.gz").write_bytes(b"packed")
    return made


@pytest.fixture
def target(world: World, fake: FakeAws) -> SageMaker:
    """An AWS on which everything works; what was not made is absent."""

    def described(kind: str) -> object:
        made = f"Create{kind}"
        return lambda _: {f"{kind}Name": "tiny", f"{kind}Arn": f"{ARN}:tiny"} if made in fake.operations() else ABSENT

    status = iter(["Creating", "Creating"])
    fake.script |= {
        "DescribeModel": [described("Model")],
        "DescribeEndpointConfig": [described("EndpointConfig")],
        "DescribeEndpoint": [
            lambda _: (
                {"EndpointName": "tiny", "EndpointStatus": next(status, "InService")}
                if "CreateEndpoint" in fake.operations()
                else ABSENT
            )
        ],
        "CreateModel": [{"ModelArn": f"{ARN}:model/tiny"}],
        "CreateEndpointConfig": [{"EndpointConfigArn": f"{ARN}:endpoint-config/tiny"}],
        "CreateEndpoint": [{"EndpointArn": f"{ARN}:endpoint/tiny"}],
        "InvokeEndpoint": [b'{"generated_text": "a"}'],
        "DeleteEndpoint": [{}],
        "DeleteEndpointConfig": [{}],
        "DeleteModel": [{}],
    }
    endpoints = {"s3": world.s3_url, "sagemaker": fake.url, "sagemaker-runtime": fake.url}
    image = "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-lmi20.0.0-cu128"
    return SageMaker(
        s3_uri=f"s3://{BUCKET}/tiny", image=image, role_arn=ROLE, instance="ml.g6.xlarge", endpoints=endpoints
    )


def go(target: SageMaker, folder: Path, world: World, dry_run: bool = False) -> None:
    push(target, folder, world.log, dry_run, world.ticks.clock)


def drop(target: SageMaker, folder: Path, world: World, dry_run: bool = False) -> None:
    delete(target, folder, world.log, dry_run, world.ticks.clock)


def test_the_whole_way_there_and_back(target: SageMaker, folder: Path, world: World, fake: FakeAws) -> None:
    go(replace(target, tags={"team": "a"}), folder, world)
    assert world.held() == KEYS
    tags = [{"Key": "team", "Value": "a"}]
    data = {"S3Uri": f"s3://{BUCKET}/tiny/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    container = {"Image": target.image, "ModelDataSource": {"S3DataSource": data}}
    assert fake.of("CreateModel") == [
        {"ModelName": "tiny", "ExecutionRoleArn": ROLE, "PrimaryContainer": container, "Tags": tags}
    ]
    assert fake.of("CreateEndpointConfig")[0]["ProductionVariants"] == [
        {
            "VariantName": "all",
            "ModelName": "tiny",
            "InstanceType": "ml.g6.xlarge",
            "InitialInstanceCount": 1,
            "ModelDataDownloadTimeoutInSeconds": 1800,
            "ContainerStartupHealthCheckTimeoutInSeconds": 1800,
        }
    ]
    assert fake.of("CreateEndpoint") == [{"EndpointName": "tiny", "EndpointConfigName": "tiny", "Tags": tags}]
    asked = fake.of("InvokeEndpoint")[0]
    assert json.loads(asked["Body"]) == {"inputs": "Hello", "parameters": {"max_new_tokens": 16}}
    assert world.ticks.slept == [15.0, 22.5] and "endpoint tiny: Creating" in world.said
    assert "tiny is in service and wrote 'a'" in world.said
    drop(target, folder, world)
    assert fake.operations()[-3:] == ["DeleteEndpoint", "DeleteEndpointConfig", "DeleteModel"]
    assert world.held() == set() and not (folder / PUSHED).exists()


def test_an_archive(target: SageMaker, folder: Path, world: World, fake: FakeAws) -> None:
    go(replace(target, packaging="tar"), folder, world)
    assert world.held() == {"tiny/model.tar.gz", "tiny.qat-push"}
    assert fake.of("CreateModel")[0]["PrimaryContainer"]["ModelDataSource"]["S3DataSource"] == {
        "S3Uri": f"s3://{BUCKET}/tiny/model.tar.gz",
        "S3DataType": "S3Object",
        "CompressionType": "Gzip",
    }


@pytest.mark.parametrize("operation", ["CreateModel", "CreateEndpointConfig", "CreateEndpoint", "InvokeEndpoint"])
def test_goes_on_where_it_was_cut_off(
    target: SageMaker, folder: Path, world: World, fake: FakeAws, operation: str
) -> None:
    later = fake.script[operation]
    fake.script[operation] = [Refuse("AccessDeniedException", "not you", 403)]
    with pytest.raises(AwsError, match=f"AWS denied .*:{operation}"):
        go(target, folder, world)
    fake.seen.clear() if operation == "CreateModel" else None
    fake.seen[:] = [one for one in fake.seen if one[0] != operation]  # it was not made
    fake.script[operation] = later
    go(target, folder, world)
    assert all(len(fake.of(f"Create{kind}")) == 1 for kind in ("Model", "EndpointConfig", "Endpoint"))
    assert SageMakerLedger.read(folder).made.keys() == {"Model", "EndpointConfig", "Endpoint"}


def test_throttling_and_dropped_connections(target: SageMaker, folder: Path, world: World, fake: FakeAws) -> None:
    for operation in ("DescribeModel", "DescribeEndpoint", "InvokeEndpoint"):
        fake.script[operation] = [Refuse("ThrottlingException", status=400), Drop(), *fake.script[operation]]
    go(target, folder, world)
    assert "tiny is in service" in world.said


def test_a_failed_endpoint_says_why_and_can_be_deleted(
    target: SageMaker, folder: Path, world: World, fake: FakeAws
) -> None:
    failed = {"EndpointName": "tiny", "EndpointStatus": "Failed", "FailureReason": "CUDA out of memory"}
    fake.script["DescribeEndpoint"] = [ABSENT, failed]
    with pytest.raises(RunError, match="endpoint tiny is Failed: CUDA out of memory; delete it"):
        go(target, folder, world)
    drop(target, folder, world)
    assert len(fake.of("DeleteEndpoint")) == 1 and world.held() == set()


def test_an_endpoint_that_does_not_start(target: SageMaker, folder: Path, world: World, fake: FakeAws) -> None:
    fake.script["DescribeEndpoint"] = [ABSENT, {"EndpointName": "tiny", "EndpointStatus": "Creating"}]
    with pytest.raises(RunError, match="is Creating after 75 min; push again to wait on"):
        go(target, folder, world)
    assert 74 * 60 < sum(world.ticks.slept) <= 75 * 60


def test_an_endpoint_of_others_is_left_alone(target: SageMaker, folder: Path, world: World, fake: FakeAws) -> None:
    fake.script["DescribeModel"] = [{"ModelName": "tiny"}]
    with pytest.raises(InputError, match="there is a Model tiny that this folder did not make"):
        go(target, folder, world)
    drop(target, folder, world)
    assert not [name for name in fake.operations() if name.startswith("Delete")]


def test_deletes_what_is_gone_already(target: SageMaker, folder: Path, world: World, fake: FakeAws) -> None:
    go(target, folder, world)
    fake.script |= {name: [ABSENT] for name in ("DeleteEndpoint", "DeleteEndpointConfig", "DeleteModel")}
    drop(target, folder, world)
    assert not (folder / PUSHED).exists()


def test_other_files_are_another_push(target: SageMaker, folder: Path, world: World) -> None:
    go(target, folder, world)
    (folder / "model" / "config.json").write_text("[]")
    with pytest.raises(InputError, match="tiny was made of other files or under another name"):
        go(target, folder, world)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image": "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:lmi"}, "Model tiny .* PrimaryContainer"),
        ({"instance": "ml.g6.2xlarge"}, "EndpointConfig tiny was made with another ProductionVariants"),
        ({"tags": {"a": "b"}}, "Model tiny was made with another Tags; delete it first"),
    ],
)
def test_other_options_are_another_push(
    target: SageMaker, folder: Path, world: World, changes: dict[str, Any], says: str
) -> None:
    go(target, folder, world)
    with pytest.raises(InputError, match=says):
        go(replace(target, **changes), folder, world)


def test_a_dry_run_shows_every_call_and_sends_none(
    target: SageMaker, folder: Path, world: World, fake: FakeAws, capsys: pytest.CaptureFixture[str]
) -> None:
    target.push(folder, world.log, dry_run=True)
    shown = capsys.readouterr().out
    assert fake.seen == [] and world.held() == set() and not (folder / PUSHED).exists()
    for operation in ("CreateModel", "CreateEndpointConfig", "CreateEndpoint", "DescribeEndpoint"):
        assert f'{{"service": "sagemaker", "operation": "{operation}", ' in shown
    for call in api.creations(api.Endpoint.of(target)):
        assert str(call) in shown.splitlines()
    with pytest.raises(InputError, match="nothing was pushed"):
        target.delete(folder, world.log, dry_run=True)


@pytest.mark.parametrize("option", ["image", "role_arn", "instance"])
def test_options_without_a_default(target: SageMaker, folder: Path, world: World, option: str) -> None:
    with pytest.raises(InputError, match=f"target.{option} is not given"):
        go(replace(target, **{option: None}), folder, world)


def test_a_wrong_name_is_found_before_the_upload(target: SageMaker, folder: Path, world: World) -> None:
    with pytest.raises(InputError, match="ModelName 'no_name' does not match"):
        go(replace(target, endpoint_name="no_name"), folder, world)
    assert world.held() == set()


def test_an_answer_without_text(target: SageMaker, folder: Path, world: World, fake: FakeAws) -> None:
    fake.script["InvokeEndpoint"] = [b"{}"]
    with pytest.raises(RunError, match="the endpoint's answer holds no text: {}"):
        go(target, folder, world)
