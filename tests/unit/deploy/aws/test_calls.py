from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qat.deploy.aws.calls import Call, Section
from qat.errors import InputError

JOB = {
    "jobName": "tiny-1",
    "importedModelName": "tiny",
    "roleArn": "arn:aws:iam::123456789012:role/Import",
    "modelDataSource": {"s3DataSource": {"s3Uri": "s3://bucket/tiny/"}},
}


def job(**changes: Any) -> Call:
    return Call("bedrock", "CreateModelImportJob", {**JOB, **changes})


def test_takes_what_the_service_takes() -> None:
    job(clientRequestToken="a-1", importedModelTags=[{"key": "team", "value": ""}]).check()
    Call("sts", "GetCallerIdentity", {}).check()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"jobName": "-tiny"}, "jobName '-tiny' does not match"),
        ({"jobName": "t" * 64}, "jobName has 64 characters, allowed are 1 to 63"),
        ({"importedModelName": "tiny.v1"}, "importedModelName 'tiny.v1' does not match"),
        ({"roleArn": "Import"}, "roleArn 'Import' does not match"),
        ({"modelDataSource": {"s3DataSource": {"s3Uri": "bucket/tiny"}}}, "modelDataSource.s3DataSource.s3Uri"),
        ({"jobTags": [{"key": "team!", "value": ""}]}, r"jobTags\[0\].key 'team!' does not match"),
        ({"vpcConfig": {"subnetIds": ["a-1"] * 17, "securityGroupIds": ["a-1"]}}, "vpcConfig.subnetIds has 17 entries"),
        ({"jobNam": "tiny"}, 'Unknown parameter in input: "jobNam"'),
        ({"jobName": 1}, "Invalid type for parameter jobName"),
    ],
)
def test_names_what_the_service_does_not_take(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=f"bedrock:CreateModelImportJob does not take.*{named}"):
        job(**changes).check()


def test_checks_maps_numbers_and_enumerations() -> None:
    variant = {"VariantName": "all", "ModelName": "tiny", "InstanceType": "ml.g99.huge", "InitialInstanceCount": 1}
    config = {"EndpointConfigName": "tiny", "ProductionVariants": [variant]}
    with pytest.raises(InputError, match="'ml.g99.huge' is none of") as refused:
        Call("sagemaker", "CreateEndpointConfig", config).check()
    variant |= {"InstanceType": "ml.g6.xlarge", "ModelDataDownloadTimeoutInSeconds": 3601}
    with pytest.raises(InputError, match="is 3601, allowed are 60 to 3600"):
        Call("sagemaker", "CreateEndpointConfig", config).check()
    assert "\n" not in str(refused.value)


def test_is_shown_as_one_line_of_json(tmp_path: Path) -> None:
    body = {"Bucket": "b", "Key": "k", "Body": Section(tmp_path / "w.bin", 16, 8)}
    assert '"Body": "<8 bytes of w.bin from 16>"' in str(Call("s3", "UploadPart", body))
    invoke = {"modelId": "tiny", "body": b'{"prompt": "Hello"}'}
    assert str(Call("bedrock-runtime", "InvokeModel", invoke)) == (
        '{"service": "bedrock-runtime", "operation": "InvokeModel", '
        '"parameters": {"modelId": "tiny", "body": {"prompt": "Hello"}}}'
    )


def test_a_section_is_its_bytes_alone(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(range(32)))
    with Section(tmp_path / "w.bin", 16, 8).open() as file:
        assert file.read() == bytes(range(16, 24))
