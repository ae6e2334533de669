"""docs/deploy.md names every rule and shows the policies that are made."""

from __future__ import annotations

import json
import re
from pathlib import Path

from qat.deploy.bedrock.policies import key_statement, permission_policy, trust_policy

ACCOUNT = "123456789012"
TEXT = (Path(__file__).parents[4] / "docs" / "deploy.md").read_text(encoding="utf-8")


def test_every_rule_is_in_the_table(good, given):
    rules = {check.rule.removeprefix("bedrock.") for check in given.preflight(good).checks}
    rows = [line for line in TEXT.splitlines() if re.match(r"\| `\d+\.", line)]
    assert {name for row in rows for name in re.findall(r"`(\d+\.[a-z0-9_]+)`", row.split(" | ")[0])} == rules


def test_the_policies_are_the_ones_that_are_made():
    made = [
        trust_policy(ACCOUNT, "us-east-1"),
        permission_policy(ACCOUNT, "s3://bucket/models/tiny"),
        key_statement(f"arn:aws:iam::{ACCOUNT}:role/Import"),
    ]
    shown = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
    assert all(policy in shown for policy in made)
