"""Rule 9, and the names that are made where none is given."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from qat.deploy.bedrock.rules import names

NOW = datetime(2026, 11, 24, 15, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize("region", ["us-east-1", "us-east-2", "us-west-2", "eu-central-1"])
def test_regions(found, good, given, region):
    assert found(good, "9.region", replace(given, region=region)).status == "pass"


def test_another_region(found, good, given):
    check = found(good, "9.region", replace(given, region="eu-central-2"))
    assert check.status == "fail" and "did you mean 'eu-central-1'" in check.fix


@pytest.mark.parametrize(
    ("rule", "option", "value", "status"),
    [
        ("9.model_name", "model_name", "tiny_llama-2b", "pass"),
        ("9.model_name", "model_name", "x" * 63, "pass"),
        ("9.model_name", "model_name", "x" * 64, "fail"),
        ("9.model_name", "model_name", "tiny--llama", "fail"),
        ("9.model_name", "model_name", "-tiny", "fail"),
        ("9.model_name", "model_name", "tiny.llama", "fail"),
        ("9.model_name", "model_name", "", "fail"),
        ("9.model_name", "model_name", "tiny\n", "fail"),
        ("9.job_name", "job_name", "tiny+llama-2.b", "pass"),
        ("9.job_name", "job_name", "x" * 64, "fail"),
        ("9.job_name", "job_name", "tiny_llama", "fail"),
        ("9.job_name", "job_name", "+tiny", "fail"),
        ("9.s3_uri", "s3_uri", "s3://bucket", "warn"),
        ("9.s3_uri", "s3_uri", "s3://bucket/", "warn"),
        ("9.s3_uri", "s3_uri", "s3://bucket/a/b/", "pass"),
        ("9.s3_uri", "s3_uri", "s3://Bucket/a", "fail"),
        ("9.s3_uri", "s3_uri", "s3://bucket/a b", "fail"),
        ("9.s3_uri", "s3_uri", "https://bucket.s3.amazonaws.com/a", "fail"),
        ("9.s3_uri", "s3_uri", None, "not_run"),
        ("9.role_arn", "role_arn", "arn:aws:iam::123456789012:role/path/Import", "pass"),
        ("9.role_arn", "role_arn", "arn:aws-us-gov:iam::123456789012:role/Import", "pass"),
        ("9.role_arn", "role_arn", "arn:aws:iam::12345:role/Import", "fail"),
        ("9.role_arn", "role_arn", "arn:aws:iam::123456789012:user/Import", "fail"),
        ("9.role_arn", "role_arn", None, "not_run"),
        ("9.kms_key", "kms_key", None, "pass"),
        ("9.kms_key", "kms_key", "alias/import", "pass"),
        ("9.kms_key", "kms_key", "12345678-1234-1234-1234-123456789012", "pass"),
        ("9.kms_key", "kms_key", "import", "fail"),
        ("9.options", "account", "123456789012", "pass"),
        ("9.options", "account", "12345", "fail"),
        ("9.options", "tags", {"team": "ml/x"}, "pass"),
        ("9.options", "tags", {"team": "a;b"}, "fail"),
        ("9.options", "tags", {"k" * 129: "a"}, "fail"),
        ("9.options", "subnet_ids", ["subnet-1"], "fail"),
    ],
)
def test_names(found, good, given, rule, option, value, status):
    assert found(good, rule, replace(given, **{option: value})).status == status


@pytest.mark.parametrize(("group", "status"), [("sg-1", "pass"), ("sg_1", "fail"), ("s" * 33, "fail")])
def test_subnets_and_groups(found, good, given, group, status):
    target = replace(given, subnet_ids=["subnet-1"], security_group_ids=[group])
    assert found(good, "9.options", target).status == status


def test_a_role_that_a_push_makes(found, good, given):
    check = found(good, "9.role_arn", replace(given, role_arn=None, create_role=True, role_name="Mine"))
    assert (check.status, check.found) == ("pass", "made by a push: Mine")


def test_two_roles(found, good, given):
    assert found(good, "9.role_arn", replace(given, create_role=True)).status == "fail"


def test_the_patterns_are_botocores():
    from botocore.session import get_session

    model = get_session().get_service_model("bedrock")
    assert names.misfit(jobName="a_b").endswith(model.shape_for("JobName").metadata["pattern"])
    assert names.misfit(importedModelName="x" * 64).startswith("importedModelName has 64 characters")
    assert not names.misfit()


def test_without_boto3_names_are_not_run(found, good, given, monkeypatch):
    for module in [name for name in sys.modules if name.startswith("qat.deploy.aws")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "boto3", None)
    check = found(good, "9.s3_uri", given)
    assert check.status == "not_run" and "pip install '.[deploy]'" in check.found


@pytest.mark.parametrize(
    ("given_name", "uri", "name"),
    [
        ("mine", "s3://bucket/x", "mine"),
        (None, "s3://bucket/models/tiny_llama.v2/", "tiny-llama-v2"),
        (None, "s3://my-bucket", "my-bucket"),
        (None, f"s3://bucket/{'ab-' * 40}", "-".join(["ab"] * 21)),
        (None, "s3://bucket/()", None),
        (None, None, None),
    ],
)
def test_a_models_name_is_the_end_of_its_place(given_name, uri, name):
    assert names.default_model_name(given_name, uri) == name
    assert name is None or not names.misfit(importedModelName=name)


@pytest.mark.parametrize(
    ("model", "job"),
    [("tiny_llama", "tiny-llama-20261124-150405"), ("x" * 63, f"{'x' * 47}-20261124-150405")],
)
def test_a_jobs_name_has_its_time(model, job):
    assert names.default_job_name(model, NOW) == job
    assert not names.misfit(jobName=job)
