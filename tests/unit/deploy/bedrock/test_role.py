"""Rule 10: the documents that are made pass, and each is refused when one thing in it is another."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

from qat.deploy.bedrock.policies import KEY_ACTIONS, key_statement, permission_policy, trust_policy
from qat.errors import InputError

ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/Import"
URI = "s3://bucket/models/tiny"
MADE = {
    "trust": trust_policy(ACCOUNT, "us-east-1"),
    "permissions": permission_policy(ACCOUNT, URI),
    "key": {"Version": "2012-10-17", "Statement": [key_statement(ROLE)]},
}
OPTION = {"trust": "trust_policy", "permissions": "permission_policy", "key": "key_policy"}


@pytest.fixture
def judge(found, good, given, tmp_path):
    """``judge(what, document)`` is the check of a policy file."""

    def run(what, document, **options):
        path = tmp_path / "policy.json"
        path.write_text(json.dumps(document))
        target = replace(given, s3_uri=URI, role_arn=ROLE, **{OPTION[what]: str(path)} | options)
        return found(good, f"10.{what}", replace(target, kms_key="alias/x" if what == "key" else None))

    return run


def changed(what, **changes):
    document = copy.deepcopy(MADE[what])
    document["Statement"][0].update(changes)
    return document


def test_trust_policy_is_the_one_of_the_guide():
    (statement,) = MADE["trust"]["Statement"]
    assert statement == {
        "Effect": "Allow",
        "Principal": {"Service": "bedrock.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {
            "StringEquals": {"aws:SourceAccount": ACCOUNT},
            "ArnEquals": {"aws:SourceArn": f"arn:aws:bedrock:us-east-1:{ACCOUNT}:model-import-job/*"},
        },
    }


def test_permission_policy_reads_the_prefix_alone():
    (statement,) = MADE["permissions"]["Statement"]
    assert statement["Action"] == ["s3:GetObject", "s3:ListBucket"]
    assert set(statement["Resource"]) == {"arn:aws:s3:::bucket", "arn:aws:s3:::bucket/models/tiny/*"}
    assert statement["Condition"] == {"StringEquals": {"aws:ResourceAccount": ACCOUNT}}
    whole = permission_policy(ACCOUNT, "s3://bucket/")["Statement"][0]["Resource"]
    assert set(whole) == {"arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"}


@pytest.mark.parametrize("account", ["", "12345", "1234567890123", "12345678901x"])
def test_an_account_has_12_digits(account):
    with pytest.raises(InputError, match="12 digits"):
        trust_policy(account, "us-east-1")
    with pytest.raises(InputError, match="12 digits"):
        permission_policy(account, URI)


@pytest.mark.parametrize("what", MADE)
def test_what_is_made_passes(judge, what):
    assert judge(what, MADE[what]).status == "pass"


@pytest.mark.parametrize("what", MADE)
def test_a_denied_action(judge, what):
    document = copy.deepcopy(MADE[what])
    document["Statement"].append(document["Statement"][0] | {"Effect": "Deny"})
    check = judge(what, document)
    assert check.status == "fail" and check.found.startswith("denied")


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ({"Bool": {"aws:SecureTransport": "false"}}, "warn"),
        ({"StringEquals": {"aws:PrincipalTag/team": "a"}}, "warn"),
        ({"StringEquals": {"aws:ResourceAccount": "210987654321"}}, "pass"),
        ({"StringEquals": {"aws:ResourceAccount": ACCOUNT}}, "fail"),
        ({}, "fail"),
    ],
)
def test_a_denial_under_conditions(judge, condition, status):
    document = copy.deepcopy(MADE["permissions"])
    document["Statement"].append(document["Statement"][0] | {"Effect": "Deny", "Condition": condition})
    assert judge("permissions", document).status == status


@pytest.mark.parametrize("what", MADE)
@pytest.mark.parametrize("document", [{}, {"Statement": []}, {"Statement": [{"Effect": "on"}]}, {"Statement": ["x"]}])
def test_no_policy_is_not_run(judge, what, document):
    assert judge(what, document).status == "not_run"


def strings(**values):
    return {"StringEquals": {f"aws:{key}": value for key, value in values.items()}}


ARN = f"arn:aws:bedrock:us-east-1:{ACCOUNT}:model-import-job/*"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"Action": "sts:*"}, "pass"),
        ({"Action": ["sts:TagSession", "sts:AssumeRole"]}, "pass"),
        ({"Action": "sts:TagSession"}, "fail"),
        ({"Principal": {"Service": ["ec2.amazonaws.com", "bedrock.amazonaws.com"]}}, "pass"),
        ({"Principal": {"Service": "ec2.amazonaws.com"}}, "fail"),
        ({"Principal": {"AWS": ROLE}}, "fail"),
        ({"Condition": strings(SourceAccount=ACCOUNT) | {"ArnLike": {"AWS:SourceArn": ARN}}}, "pass"),
        ({"Condition": strings(SourceAccount="210987654321") | {"ArnLike": {"aws:SourceArn": ARN}}}, "fail"),
        (
            {
                "Condition": strings(SourceAccount=ACCOUNT)
                | {"ArnLike": {"aws:SourceArn": ARN.replace("us-east-1", "us-west-2")}}
            },
            "fail",
        ),
        # StringEquals takes the star as a letter: no job is called so.
        ({"Condition": strings(SourceAccount=ACCOUNT, SourceArn=ARN)}, "fail"),
        ({"Condition": strings(SourceAccount=ACCOUNT)}, "warn"),
        ({"Condition": {}}, "warn"),
        ({"Condition": MADE["trust"]["Statement"][0]["Condition"] | {"Bool": {"aws:SecureTransport": "true"}}}, "warn"),
    ],
)
def test_trust(judge, changes, status):
    assert judge("trust", changed("trust", **changes)).status == status


def test_trust_of_another_region(judge):
    assert judge("trust", MADE["trust"], region="us-west-2").status == "fail"


def test_a_second_statement_may_allow_what_the_first_does_not(judge):
    document = changed("trust", Condition=strings(SourceAccount="210987654321"))
    document["Statement"] += MADE["trust"]["Statement"]
    assert judge("trust", document).status == "pass"


def test_a_single_statement_needs_no_list(judge):
    assert judge("trust", {"Statement": MADE["trust"]["Statement"][0]}).status == "pass"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"Action": "s3:*", "Resource": "*"}, "pass"),
        ({"Action": ["s3:Get*", "s3:List*"]}, "pass"),
        ({"Action": ["s3:getobject", "s3:listbucket"]}, "pass"),
        ({"Action": "s3:GetObject"}, "fail"),
        ({"Resource": "arn:aws:s3:::bucket"}, "fail"),
        ({"Resource": "arn:aws:s3:::bucket/*"}, "fail"),
        ({"Resource": ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/other/*"]}, "fail"),
        ({"Resource": ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"]}, "pass"),
        ({"Effect": "Deny", "NotAction": "s3:PutObject"}, "not_run"),
        ({"NotResource": "arn:aws:s3:::other"}, "not_run"),
        ({"Condition": strings(ResourceAccount="210987654321")}, "fail"),
        ({"Condition": {}}, "warn"),
        ({"Condition": strings(ResourceAccount=ACCOUNT) | {"StringNotEquals": {"aws:SourceVpc": "vpc-1"}}}, "warn"),
    ],
)
def test_permissions(judge, changes, status):
    assert judge("permissions", changed("permissions", **changes)).status == status


@pytest.mark.parametrize("action", KEY_ACTIONS)
def test_every_action_of_a_key_is_needed(judge, action):
    check = judge("key", changed("key", Action=[other for other in KEY_ACTIONS if other != action]))
    assert (check.status, check.found) == ("fail", f"not allowed: {action}")


@pytest.mark.parametrize(
    ("changes", "status"),
    [({"Action": "kms:*"}, "pass"), ({"Principal": "*"}, "pass"), ({"Principal": {"AWS": ROLE + "2"}}, "fail")],
)
def test_key(judge, changes, status):
    assert judge("key", changed("key", **changes)).status == status


def test_what_is_not_given_is_not_run(found, good, given):
    assert found(good, "10.trust").status == "not_run"
    assert found(good, "10.permissions").status == "not_run"
    assert found(good, "10.key").status == "pass"  # AWS's own key needs no policy
    assert found(good, "10.key", replace(given, kms_key="alias/x")).status == "not_run"


def test_what_a_push_makes_passes(found, good, given):
    target = replace(given, role_arn=None, create_role=True)
    assert {found(good, f"10.{what}", target).status for what in ("trust", "permissions")} == {"pass"}


def test_a_wrong_account_is_not_run(judge):
    check = judge("trust", MADE["trust"], account="12345")
    assert check.status == "not_run" and "12 digits" in check.found
