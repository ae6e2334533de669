from __future__ import annotations

import json

import pytest
from aws_world import World
from fake_aws import Drop, FakeAws, Refuse

from qat.deploy.aws.clients import Aws
from qat.deploy.aws.errors import AwsError
from qat.deploy.bedrock import api
from qat.deploy.bedrock.policies import permission_policy, trust_policy
from qat.errors import InputError, RunError

ACCOUNT = "123456789012"
JOB = f"arn:aws:bedrock:us-east-1:{ACCOUNT}:model-import-job/abcdefghij12"
MODEL = f"arn:aws:bedrock:us-east-1:{ACCOUNT}:imported-model/abcdefghij12"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/Import"
WANTED = api.Import("tiny-1", "token-1", "tiny", ROLE, "s3://bucket/tiny/")


@pytest.fixture
def aws(world: World, fake: FakeAws) -> Aws:
    return world.aws(bedrock=fake.url, iam=fake.url, sts=fake.url)


def test_the_request_has_every_option(aws: Aws, fake: FakeAws) -> None:
    fake.script["CreateModelImportJob"] = [{"jobArn": JOB}]
    key = f"arn:aws:kms:us-east-1:{ACCOUNT}:alias/models"
    wanted = api.Import("tiny-1", "token-1", "tiny", ROLE, "s3://bucket/tiny/", key, {"a": "b"}, ["subnet-1"], ["sg-1"])
    assert api.start_import(aws, wanted) == JOB
    tags = [{"key": "a", "value": "b"}]
    assert fake.seen == [
        (
            "CreateModelImportJob",
            {
                "jobName": "tiny-1",
                "importedModelName": "tiny",
                "roleArn": ROLE,
                "modelDataSource": {"s3DataSource": {"s3Uri": "s3://bucket/tiny/"}},
                "clientRequestToken": "token-1",
                "jobTags": tags,
                "importedModelTags": tags,
                "importedModelKmsKeyId": key,
                "vpcConfig": {"subnetIds": ["subnet-1"], "securityGroupIds": ["sg-1"]},
            },
        )
    ]


def test_a_lost_answer_makes_no_second_job(aws: Aws, fake: FakeAws) -> None:
    fake.script["CreateModelImportJob"] = [Drop(), {"jobArn": JOB}]
    assert api.start_import(aws, WANTED) == JOB
    assert [one["clientRequestToken"] for one in fake.of("CreateModelImportJob")] == ["token-1"] * 2


def test_a_new_role_is_waited_for(aws: Aws, fake: FakeAws, world: World) -> None:
    not_yet = Refuse("ValidationException", "Bedrock cannot assume the provided role")
    fake.script["CreateModelImportJob"] = [not_yet, not_yet, {"jobArn": JOB}]
    assert api.start_import(aws, WANTED) == JOB
    assert world.ticks.slept == [5.0, 10.0]


def test_a_wrong_request_is_not_repeated(aws: Aws, fake: FakeAws, world: World) -> None:
    fake.script["CreateModelImportJob"] = [Refuse("ConflictException", "the job name is taken", 409)]
    with pytest.raises(AwsError, match="ConflictException: the job name is taken"):
        api.start_import(aws, WANTED)
    assert world.ticks.slept == []


def test_waits_until_the_job_has_ended(aws: Aws, fake: FakeAws, world: World) -> None:
    busy = {"status": "InProgress"}
    fake.script["GetModelImportJob"] = [busy, busy, {"status": "Completed", "importedModelArn": MODEL}]
    assert api.wait_for_import(aws, JOB, hours=1) == MODEL
    assert world.ticks.slept == [15.0, 22.5]
    assert "import job: InProgress for 0 min" in world.said


def test_a_failed_job_says_why(aws: Aws, fake: FakeAws) -> None:
    why = "Unsupported metadata key total_parameters"
    fake.script["GetModelImportJob"] = [{"status": "InProgress"}, {"status": "Failed", "failureMessage": why}]
    with pytest.raises(api.ImportFailed, match=f"the import failed: {why}; put that right"):
        api.wait_for_import(aws, JOB, hours=1)


def test_a_job_that_does_not_end(aws: Aws, fake: FakeAws, world: World) -> None:
    fake.script["GetModelImportJob"] = [{"status": "InProgress"}]
    with pytest.raises(RunError, match=r"still runs after 1 h \(InProgress\); push again to wait on"):
        api.wait_for_import(aws, JOB, hours=1)
    assert 3480 < sum(world.ticks.slept) <= 3600 and max(world.ticks.slept) == 120.0


def test_makes_the_role_of_the_preflight(aws: Aws, fake: FakeAws) -> None:
    role = {"Role": {"Arn": ROLE}}
    fake.script |= {"GetRole": [Refuse("NoSuchEntity", status=404)], "CreateRole": [role], "PutRolePolicy": [{}]}
    assert api.create_role(aws, "Import", ACCOUNT, "s3://bucket/tiny/", {}) == ROLE
    made, policy = fake.of("CreateRole")[0], fake.of("PutRolePolicy")[0]
    assert json.loads(made["AssumeRolePolicyDocument"]) == trust_policy(ACCOUNT, "us-east-1")
    assert json.loads(policy["PolicyDocument"]) == permission_policy(ACCOUNT, "s3://bucket/tiny/")


def test_goes_on_with_a_role_that_was_half_made(aws: Aws, fake: FakeAws) -> None:
    fake.script |= {"GetRole": [{"Role": {"Arn": ROLE}}], "PutRolePolicy": [{}]}
    assert api.create_role(aws, "Import", ACCOUNT, "s3://bucket/tiny/", {}) == ROLE
    assert fake.operations() == ["GetRole", "PutRolePolicy"]


def test_deletes_what_may_be_gone(aws: Aws, fake: FakeAws) -> None:
    gone = Refuse("NoSuchEntity", status=404)
    fake.script |= {"DeleteRolePolicy": [gone], "DeleteRole": [gone]}
    fake.script["DeleteImportedModel"] = [{}, Refuse("ResourceNotFoundException", status=404)]
    api.delete_role(aws, "Import")
    assert [api.delete_model(aws, MODEL), api.delete_model(aws, MODEL)] == [True, False]


def test_the_account_is_asked(aws: Aws, fake: FakeAws) -> None:
    fake.script["GetCallerIdentity"] = [{"Account": ACCOUNT}]
    assert api.account_of(aws) == ACCOUNT


def test_one_role() -> None:
    api.check_role_option(ROLE, create=False)
    with pytest.raises(InputError, match="no role that Bedrock may read"):
        api.check_role_option(None, create=False)
    with pytest.raises(InputError, match="are two roles"):
        api.check_role_option(ROLE, create=True)
