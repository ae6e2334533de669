"""Rule 10: the role that Bedrock reads the bucket with, and the key that it encrypts the model with.

A role lies in AWS, out of a preflight's sight: what is checked is the document that the user gives, or the one that a
push makes. Without either the rule is not run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qat.deploy.bedrock import policies, sources
from qat.deploy.bedrock.policies import Document
from qat.deploy.bedrock.statements import Statement, statements
from qat.deploy.bedrock.subject import Subject
from qat.deploy.checks import Check, Rule, rule
from qat.errors import InputError
from qat.tensor_files import read_json

_ACCOUNT, _ARN, _OWNER = "aws:sourceaccount", "aws:sourcearn", "aws:resourceaccount"
_SAMPLE = "abcdefghijkl"  # in place of a wildcard: what a job or an object may be called


@rule(
    "bedrock.10.trust",
    "Trust policy of the role",
    f"{policies.SERVICE} may assume it, with aws:SourceAccount and aws:SourceArn of the import jobs",
    sources.ROLE,
)
def trust(rule: Rule, subject: Subject) -> Check:
    target = subject.target
    if target.trust_policy is None:
        return _ungiven(rule, subject, "trust_policy")
    return judge_trust(rule, read_json(Path(target.trust_policy)), _account(subject), target.region)


@rule(
    "bedrock.10.permissions",
    "Permission policy of the role",
    f"{' and '.join(policies.READ_ACTIONS)} on target.s3_uri, with aws:ResourceAccount",
    sources.ROLE,
)
def permissions(rule: Rule, subject: Subject) -> Check:
    target = subject.target
    if target.permission_policy is None:
        return _ungiven(rule, subject, "permission_policy")
    if target.s3_uri is None:
        return rule.not_run("no target.s3_uri to look for in it", "target.s3_uri=s3://<bucket>/<prefix>")
    return judge_permissions(rule, read_json(Path(target.permission_policy)), _account(subject), target.s3_uri)


@rule(
    "bedrock.10.key",
    "Policy of the customer's key",
    f"none without target.kms_key, else {', '.join(policies.KEY_ACTIONS)} for the role",
    sources.KEY,
)
def key(rule: Rule, subject: Subject) -> Check:
    target = subject.target
    if target.kms_key is None:
        return rule.passed("no key of one's own")
    if target.key_policy is None:
        return rule.not_run("the key's policy lies in AWS", "target.key_policy=<file with its JSON>")
    if target.role_arn is None:
        return rule.not_run("no target.role_arn to look for in it", "target.role_arn=<ARN>")
    return judge_key(rule, read_json(Path(target.key_policy)), target.role_arn)


def judge_trust(rule: Rule, document: Document, account: str | None, region: str) -> Check:
    """Whether Bedrock, and through it no other account, may take the role."""
    held = [s for s in statements(document) if s.names("Service", policies.SERVICE)]
    action = "sts:AssumeRole"
    job = None if account is None else policies.job_arns(account, region).replace("*", _SAMPLE)
    fix = "write the trust policy of docs/deploy.md, or let target.create_role=true make it"
    return _judge(rule, {action: [s for s in held if s.covers(action)]}, {_ACCOUNT: account, _ARN: job}, fix)


def judge_permissions(rule: Rule, document: Document, account: str | None, s3_uri: str) -> Check:
    """Whether the role may read what was uploaded."""
    held = statements(document)
    needed = {action: arn.replace("*", _SAMPLE) for action, arn in policies.resource_arns(s3_uri).items()}
    covering = {action: [s for s in held if s.covers(action, arn)] for action, arn in needed.items()}
    fix = "write the permission policy of docs/deploy.md, or let target.create_role=true make it"
    return _judge(rule, covering, {_OWNER: account}, fix)


def judge_key(rule: Rule, document: Document, role_arn: str) -> Check:
    """Whether the role may do with the key what an import needs."""
    held = [s for s in statements(document) if s.names("AWS", role_arn)]
    covering = {action: [s for s in held if s.covers(action)] for action in policies.KEY_ACTIONS}
    return _judge(rule, covering, {}, "add the statement of docs/deploy.md to the key's policy")


def _judge(rule: Rule, covering: Mapping[str, list[Statement]], wanted: dict[str, str | None], fix: str) -> Check:
    """Judge the statements that cover each action under the conditions ``wanted``.

    A condition with another value keeps Bedrock out: failed. One that is absent lets others in: warned. A denial
    counts where its conditions are met; where they are not judged here it warns.
    """
    met = {action: [s for s in some if not s.misfit(wanted)] for action, some in covering.items()}
    denying = {action: [s for s in some if s.effect == "Deny"] for action, some in met.items()}
    if denied := [action for action, some in denying.items() if any(not s.beyond(wanted) for s in some)]:
        return rule.failed(f"denied: {', '.join(denied)}", fix)
    granting = {action: [s for s in some if s.effect == "Allow"] for action, some in covering.items()}
    if lacking := [action for action, some in granting.items() if not some]:
        return rule.failed(f"not allowed: {', '.join(lacking)}", fix)
    allowing = [s for some in met.values() for s in some if s.effect == "Allow"]
    for action, some in granting.items():
        if all(s.misfit(wanted) for s in some):
            return rule.failed(f"{action}: {some[0].misfit(wanted)}", fix)
    if absent := [key for key in wanted if any(key not in s.conditions for s in allowing)]:
        return rule.warned(f"open to other accounts: no condition on {', '.join(absent)}", fix)
    if unjudged := {name for some in met.values() for s in some for name in s.beyond(wanted)}:
        return rule.warned(
            f"conditions not judged here: {', '.join(sorted(unjudged))}", "make sure that Bedrock meets them"
        )
    return rule.passed(f"allowed: {', '.join(covering)}")


def _ungiven(rule: Rule, subject: Subject, option: str) -> Check:
    target = subject.target
    if target.role_arn is None and target.create_role:
        return rule.passed(f"made by a push for the role {target.role_name}")
    return rule.not_run("the role's policy lies in AWS", f"target.{option}=<file with its JSON>")


def _account(subject: Subject) -> str | None:
    """As given, or as the role's ARN has it."""
    target = subject.target
    if target.account is None and target.role_arn is not None:
        return target.role_arn.split(":")[4] if target.role_arn.count(":") >= 5 else None
    if target.account is not None and not (target.account.isdecimal() and len(target.account) == 12):
        raise InputError(f"target.account={target.account} is no AWS account: give its 12 digits in quotes")
    return target.account
