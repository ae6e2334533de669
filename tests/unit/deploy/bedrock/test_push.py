from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aws_world import BUCKET, World
from fake_aws import Drop, FakeAws, Refuse

from qat.deploy.aws.calls import Call
from qat.deploy.aws.clients import Aws
from qat.deploy.aws.errors import AwsError
from qat.deploy.bedrock.push import BedrockLedger, delete, push
from qat.deploy.bedrock.target import Bedrock
from qat.deploy.pushed import PUSHED
from qat.errors import InputError, RunError

ACCOUNT = "123456789012"
JOB = f"arn:aws:bedrock:us-east-1:{ACCOUNT}:model-import-job/abcdefghij12"
MODEL = f"arn:aws:bedrock:us-east-1:{ACCOUNT}:imported-model/abcdefghij12"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/QatBedrockImport"
ABSENT, NO_ROLE = Refuse("ResourceNotFoundException", status=404), Refuse("NoSuchEntity", status=404)
KEYS = {"tiny/config.json", "tiny/model.safetensors", "tiny.qat-push"}
TEXT = b'{"generation": "a", "choices": [{"text": "b", "message": {"content": "c"}}]}'


def rehearsed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Service and operation of each call that a dry run printed."""
    calls = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [f"{call['service']} {call['operation']}" for call in calls]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "bedrock"
    (made / "import").mkdir(parents=True)
    (made / "packed").mkdir()
    (made / "packed" / "model.safetensors").write_bytes(b"integers")
    (made / "import" / "config.json").write_text("{}")
    (made / "import" / "model.safetensors").write_bytes(b"weights")
    return made


@pytest.fixture
def target(world: World, fake: FakeAws) -> Bedrock:
    """One with a role, and an AWS on which everything works."""
    fake.script |= {
        "CreateModelImportJob": [{"jobArn": JOB}],
        "GetModelImportJob": [{"status": "InProgress"}, {"status": "Completed", "importedModelArn": MODEL}],
        "GetImportedModel": [{"modelArn": MODEL, "modelArchitecture": "llama", "instructSupported": True}],
        "InvokeModel": [TEXT],
        "DeleteImportedModel": [{}],
        "GetRole": [NO_ROLE],
        "CreateRole": [{"Role": {"Arn": ROLE}}],
        "PutRolePolicy": [{}],
        "DeleteRolePolicy": [{}],
        "DeleteRole": [{}],
        "GetCallerIdentity": [{"Account": ACCOUNT}],
    }
    services = ("sts", "iam", "bedrock", "bedrock-runtime")
    endpoints = {"s3": world.s3_url, **dict.fromkeys(services, fake.url)}
    return Bedrock(s3_uri=f"s3://{BUCKET}/tiny", role_arn=ROLE, endpoints=endpoints)


def go(target: Bedrock, folder: Path, world: World, dry_run: bool = False) -> None:
    push(target, folder, world.log, dry_run, world.ticks.clock)


def drop(target: Bedrock, folder: Path, world: World, dry_run: bool = False) -> None:
    delete(target, folder, world.log, dry_run, world.ticks.clock)


def test_the_whole_way_there_and_back(target: Bedrock, folder: Path, world: World, fake: FakeAws) -> None:
    go(target, folder, world)
    assert world.held() == KEYS  # nothing of packed/
    ledger = BedrockLedger.read(folder)
    assert (ledger.job_arn, ledger.model_arn, ledger.role_arn, ledger.role) == (JOB, MODEL, ROLE, None)
    wanted = fake.of("CreateModelImportJob")[0]
    assert wanted["importedModelName"] == "tiny" and wanted["jobName"].startswith("tiny-20")
    assert wanted["modelDataSource"] == {"s3DataSource": {"s3Uri": f"s3://{BUCKET}/tiny/"}}
    assert fake.operations()[-3:] == ["InvokeModel"] * 3
    assert "BedrockCompletion: 'a'" in world.said and "OpenAIChatCompletion: 'c'" in world.said
    drop(target, folder, world)
    assert world.held() == set() and not (folder / PUSHED).exists()
    assert fake.operations()[-1] == "DeleteImportedModel"


def test_a_second_push_makes_no_second_job(target: Bedrock, folder: Path, world: World, fake: FakeAws) -> None:
    go(target, folder, world)
    go(target, folder, world)
    assert len(fake.of("CreateModelImportJob")) == 1
    assert len(fake.of("InvokeModel")) == 6


@pytest.mark.parametrize("operation", ["CreateModelImportJob", "GetModelImportJob", "GetImportedModel", "InvokeModel"])
def test_goes_on_where_it_was_cut_off(
    target: Bedrock, folder: Path, world: World, fake: FakeAws, operation: str
) -> None:
    later = fake.script[operation]
    fake.script[operation] = [Refuse("AccessDeniedException", "not you", 403)]
    with pytest.raises(AwsError, match=f"AWS denied .*:{operation}"):
        go(target, folder, world)
    fake.script[operation] = later
    go(target, folder, world)
    tokens = {(one["clientRequestToken"], one["jobName"]) for one in fake.of("CreateModelImportJob")}
    assert len(tokens) == 1
    assert BedrockLedger.read(folder).model_arn == MODEL


def test_after_a_failed_job_comes_another(target: Bedrock, folder: Path, world: World, fake: FakeAws) -> None:
    later = fake.script["GetModelImportJob"]
    fake.script["GetModelImportJob"] = [{"status": "Failed", "failureMessage": "no tokenizer"}]
    with pytest.raises(RunError, match="the import failed: no tokenizer"):
        go(target, folder, world)
    (folder / "import" / "tokenizer.json").write_text("{}")
    fake.script["GetModelImportJob"] = later
    go(target, folder, world)
    assert len({one["clientRequestToken"] for one in fake.of("CreateModelImportJob")}) == 2
    assert "tiny/tokenizer.json" in world.held()


def test_throttling_and_dropped_connections(target: Bedrock, folder: Path, world: World, fake: FakeAws) -> None:
    for operation, answers in fake.script.items():
        fake.script[operation] = [Refuse("ThrottlingException", status=429), Drop(), *answers]
    go(target, folder, world)
    assert BedrockLedger.read(folder).model_arn == MODEL


def test_makes_the_role_and_deletes_it(target: Bedrock, folder: Path, world: World, fake: FakeAws) -> None:
    target = replace(target, role_arn=None, create_role=True)
    go(target, folder, world)
    assert fake.of("CreateModelImportJob")[0]["roleArn"] == ROLE
    go(target, folder, world)
    assert len(fake.of("CreateRole")) == 1
    drop(target, folder, world)
    assert fake.operations()[-2:] == ["DeleteRolePolicy", "DeleteRole"]


def test_a_role_of_others_is_left_alone(target: Bedrock, folder: Path, world: World, fake: FakeAws) -> None:
    fake.script["GetRole"] = [{"Role": {"Arn": ROLE}}]
    with pytest.raises(InputError, match="there is a role QatBedrockImport that no push from this folder made"):
        go(replace(target, role_arn=None, create_role=True), folder, world)
    assert world.held() == set()


def test_without_a_role_the_policies_are_printed(target: Bedrock, folder: Path, world: World, fake: FakeAws) -> None:
    with pytest.raises(InputError, match="target.role_arn=<arn> of one with the policies above"):
        go(replace(target, role_arn=None), folder, world)
    assert f'"aws:SourceAccount": "{ACCOUNT}"' in world.said and f"arn:aws:s3:::{BUCKET}/tiny/*" in world.said
    assert world.held() == set()


def test_a_model_does_not_change_with_the_folder(target: Bedrock, folder: Path, world: World) -> None:
    go(target, folder, world)
    (folder / "import" / "config.json").write_text("[]")
    with pytest.raises(InputError, match="tiny/config.json is not as it was when tiny was imported"):
        go(target, folder, world)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_name": "other"}, "importedModelName"),
        ({"job_name": "other"}, "jobName"),
        (
            {"kms_key": f"arn:aws:kms:us-east-1:{ACCOUNT}:key/{'1' * 8}-{'1' * 4}-{'1' * 4}-{'1' * 4}-{'1' * 12}"},
            "KmsKeyId",
        ),
        ({"tags": {"a": "b"}}, "importedModelTags"),
    ],
)
def test_a_model_does_not_change_with_the_options(
    target: Bedrock, folder: Path, world: World, changes: dict[str, Any], named: str
) -> None:
    go(target, folder, world)
    with pytest.raises(InputError, match=f"{named} is not as it was when tiny was imported"):
        go(replace(target, **changes), folder, world)


def test_a_role_that_appears_during_the_upload_is_left_alone(
    target: Bedrock, folder: Path, world: World, fake: FakeAws
) -> None:
    fake.script["GetRole"] = [NO_ROLE, {"Role": {"Arn": ROLE}}]
    with pytest.raises(InputError, match="there is a role QatBedrockImport that no push from this folder made"):
        go(replace(target, role_arn=None, create_role=True), folder, world)
    drop(target, folder, world)
    assert fake.of("PutRolePolicy") == fake.of("DeleteRole") == [] and world.held() == set()


def test_a_deletion_by_another_account_forgets_nothing(
    target: Bedrock, folder: Path, world: World, fake: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(target, folder, world)
    once = Aws._once

    def deny(self: Aws, call: Call) -> dict[str, Any]:
        if call.service == "s3":
            raise AwsError("denied", "403", "Forbidden")
        return once(self, call)

    monkeypatch.setattr(Aws, "_once", deny)
    with pytest.raises(AwsError, match="denied"):
        drop(target, folder, world)
    assert fake.of("DeleteImportedModel") == [] and BedrockLedger.read(folder).model_arn == MODEL


def test_a_deletion_in_another_region_forgets_nothing(
    target: Bedrock, folder: Path, world: World, fake: FakeAws
) -> None:
    go(target, folder, world)
    held, seen = world.held(), len(fake.seen)
    with pytest.raises(InputError, match=r"was pushed to us-east-1; delete there: target\.region=us-east-1"):
        drop(replace(target, region="us-west-2"), folder, world)
    assert world.held() == held and len(fake.seen) == seen
    assert BedrockLedger.read(folder).model_arn == MODEL


def test_a_wrong_name_is_found_before_the_upload(target: Bedrock, folder: Path, world: World) -> None:
    with pytest.raises(InputError, match="importedModelName 'no name' does not match"):
        go(replace(target, model_name="no name"), folder, world)
    assert world.held() == set()


def test_a_dry_run_shows_every_call_and_sends_none(
    target: Bedrock, folder: Path, world: World, fake: FakeAws, capsys: pytest.CaptureFixture[str]
) -> None:
    go(replace(target, role_arn=None, create_role=True), folder, world, dry_run=True)
    assert fake.seen == [] and world.held() == set() and not (folder / PUSHED).exists()
    shown = rehearsed(capsys)
    assert {"s3 PutObject", "iam CreateRole", "iam PutRolePolicy", "bedrock CreateModelImportJob"} < {*shown}
    assert shown.count("bedrock-runtime InvokeModel") == 3


def test_a_dry_run_of_a_deletion(
    target: Bedrock, folder: Path, world: World, fake: FakeAws, capsys: pytest.CaptureFixture[str]
) -> None:
    go(target, folder, world)
    drop(target, folder, world, dry_run=True)
    assert {"bedrock DeleteImportedModel", "s3 DeleteObjects"} <= {*rehearsed(capsys)}
    assert world.held() == KEYS and fake.of("DeleteImportedModel") == [] and (folder / PUSHED).exists()


def test_deletes_what_is_gone_already(target: Bedrock, folder: Path, world: World, fake: FakeAws) -> None:
    go(target, folder, world)
    fake.script["DeleteImportedModel"] = [ABSENT]
    for key in KEYS:
        world.s3.delete_object(Bucket=BUCKET, Key=key)
    drop(target, folder, world)
    assert not (folder / PUSHED).exists()


def test_deletes_a_model_whose_job_was_not_waited_for(
    target: Bedrock, folder: Path, world: World, fake: FakeAws
) -> None:
    later = fake.script["GetModelImportJob"]
    fake.script["GetModelImportJob"] = [Refuse("AccessDeniedException", status=403)]
    with pytest.raises(AwsError):
        go(target, folder, world)
    fake.script["GetModelImportJob"] = later
    with pytest.raises(RunError, match="still runs, and AWS has no call that ends it"):
        drop(target, folder, world)
    drop(target, folder, world)
    assert fake.of("DeleteImportedModel") == [{"modelIdentifier": MODEL}]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"region": "us-west-2"}, "was pushed with region us-east-1, not us-west-2"),
        ({"s3_uri": f"s3://{BUCKET}/other"}, f"was pushed with s3_uri s3://{BUCKET}/tiny/"),
        ({"endpoints": {"s4": "http://localhost"}}, "target.endpoints.s4 is none of"),
        ({"upload_threads": 0}, "target.upload_threads=0"),
        ({"s3_uri": None}, "target.s3_uri is not given"),
    ],
)
def test_wrong_options(target: Bedrock, folder: Path, world: World, changes: dict[str, Any], says: str) -> None:
    go(target, folder, world)
    with pytest.raises(InputError, match=says):
        go(replace(target, **changes), folder, world)


def test_nothing_to_delete(target: Bedrock, folder: Path, world: World) -> None:
    with pytest.raises(InputError, match="nothing was pushed from there"):
        drop(target, folder, world)


def test_the_target_calls_both(target: Bedrock, folder: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    target.push(folder, world.log, dry_run=True)
    assert "bedrock CreateModelImportJob" in rehearsed(capsys)
    with pytest.raises(InputError, match="nothing was pushed"):
        target.delete(folder, world.log, dry_run=True)
