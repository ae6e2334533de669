from __future__ import annotations

from pathlib import Path

import pytest
from aws_world import SECRET, World
from botocore.credentials import Credentials
from fake_aws import Drop, FakeAws, Refuse

from qat.deploy.aws.calls import Call
from qat.deploy.aws.clients import check_endpoints
from qat.deploy.aws.errors import AwsError
from qat.errors import InputError, RunError

MODEL = Call("bedrock", "GetImportedModel", {"modelIdentifier": "tiny"})


def test_a_dry_run_shows_the_call_and_sends_none(
    world: World, fake: FakeAws, capsys: pytest.CaptureFixture[str]
) -> None:
    aws = world.aws(dry_run=True, bedrock=fake.url)
    assert aws.send(MODEL, {"modelName": "tiny"}) == {"modelName": "tiny"}
    assert aws.find(MODEL) is None
    assert capsys.readouterr().out == f"{MODEL}\n{MODEL}\n" and world.said == ""
    assert fake.seen == []


def test_a_dry_run_checks_the_call(world: World) -> None:
    with pytest.raises(InputError, match="does not match"):
        world.aws(dry_run=True).send(Call("bedrock", "GetImportedModel", {"modelIdentifier": "no model"}))


def test_tries_again_with_growing_pauses_and_says_so(world: World, fake: FakeAws) -> None:
    fake.script["GetImportedModel"] = [Refuse("ThrottlingException", status=429), Drop(), {"modelName": "tiny"}]
    assert world.aws(bedrock=fake.url).send(MODEL)["modelName"] == "tiny"
    assert world.ticks.slept == [1.0, 2.0]
    assert "ThrottlingException, trying again in 1 s" in world.said and "ConnectionDropped" in world.said


def test_gives_up_after_the_time_it_has(world: World, fake: FakeAws) -> None:
    fake.script["GetImportedModel"] = [Refuse("ThrottlingException", "too fast", 429)]
    with pytest.raises(AwsError, match="bedrock:GetImportedModel: ThrottlingException: too fast"):
        world.aws(bedrock=fake.url).send(MODEL)
    assert sum(world.ticks.slept) <= 90 < sum(world.ticks.slept) + 20


@pytest.mark.parametrize(
    ("refusal", "kind", "says"),
    [
        (
            Refuse("AccessDeniedException", "no right to bedrock:GetImportedModel", 403),
            RunError,
            "no right to.*allow it",
        ),
        (Refuse("ExpiredTokenException", "old", 403), InputError, "session has expired.*sign in again"),
        (
            Refuse("UnrecognizedClientException", "token", 403),
            InputError,
            "not accept these credentials.*aws configure",
        ),
    ],
)
def test_refusals_have_a_fix(world: World, fake: FakeAws, refusal: Refuse, kind: type[Exception], says: str) -> None:
    fake.script["GetImportedModel"] = [refusal]
    with pytest.raises(kind, match=says):
        world.aws(bedrock=fake.url).send(MODEL)
    assert len(fake.seen) == 1 and world.ticks.slept == []


def test_no_secret_gets_into_a_message(world: World, fake: FakeAws) -> None:
    fake.script["GetImportedModel"] = [
        Refuse("ValidationException", f"who signs with {SECRET}?"),
        Refuse("SignatureDoesNotMatch", f"the string to sign was {SECRET[:6]}", 403),
    ]
    aws = world.aws(bedrock=fake.url)
    with pytest.raises(AwsError, match=r"who signs with \*\*\*\?"):
        aws.send(MODEL)
    with pytest.raises(InputError) as refused:
        aws.send(MODEL)
    assert SECRET[:6] not in str(refused.value)


def test_credentials_that_were_renewed_are_secret_too(
    world: World, fake: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, renewed = "first-secret-of-nobody", "renewed-secret-of-nobody"
    fake.script["GetImportedModel"] = [Refuse("ValidationException", f"neither {first} nor {renewed} signs")]
    aws = world.aws(bedrock=fake.url)
    aws._connect("bedrock")  # so that there is a session, whose credentials change under it
    held = iter([Credentials("AKIDOFNOBODY", first), Credentials("AKIDOFNOBODY", renewed)])
    monkeypatch.setattr(aws._session, "get_credentials", lambda: next(held))
    with pytest.raises(AwsError, match=r"neither \*\*\* nor \*\*\* signs"):
        aws.send(MODEL)


def test_no_credentials(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(InputError, match="no AWS credentials that work .NoCredentialsError.; set target.profile"):
        world.aws(bedrock="http://127.0.0.1:9").send(MODEL)


def test_no_such_profile(world: World) -> None:
    aws = world.aws()
    aws._profile = "nobody"
    with pytest.raises(InputError, match="nobody.*target.profile"):
        aws.send(MODEL)


def test_nobody_answers(world: World) -> None:
    with pytest.raises(AwsError, match=r"got no answer .*http://\*\*\*@127.0.0.1:9/.*check the network"):
        world.aws(bedrock="http://me:mine@127.0.0.1:9").send(MODEL)


def test_what_is_absent_is_none(world: World, fake: FakeAws) -> None:
    fake.script["GetImportedModel"] = [Refuse("ResourceNotFoundException", "no tiny", 404)]
    fake.script["DescribeEndpoint"] = [Refuse("ValidationException", "Could not find endpoint tiny")]
    aws = world.aws(bedrock=fake.url, sagemaker=fake.url)
    assert aws.find(MODEL) is None
    assert aws.find(Call("sagemaker", "DescribeEndpoint", {"EndpointName": "tiny"})) is None


def test_endpoints_of_no_service(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="target.endpoints.s4 is none of s3, sts; did you mean 's3'"):
        check_endpoints({"s4": "http://localhost"}, ("s3", "sts"))


@pytest.mark.parametrize("endpoint", ["http://me:mine@no host", "me:mine@host"])
def test_an_endpoint_that_is_none_keeps_its_password(world: World, endpoint: str) -> None:
    with pytest.raises(InputError, match=r"^target\.endpoints\.bedrock is no address; write http") as refused:
        world.aws(bedrock=endpoint).send(MODEL)
    assert "mine" not in str(refused.value)


def test_an_endpoint_that_is_none_is_named(world: World) -> None:
    with pytest.raises(InputError, match="target.endpoints.bedrock 'localhost' .* is no address"):
        world.aws(bedrock="localhost").send(MODEL)
