from __future__ import annotations

import io
import json

import pytest
from pydantic import ValidationError
from rich.console import Console

from qat.deploy.checks import Check, Preflight, Rule, rule
from qat.errors import InputError

RULE = Rule("host.1.size", "Size", "at most 3", "a page")


def table(preflight: Preflight, colour: bool = False) -> str:
    file = io.StringIO()
    Console(file=file, width=80, force_terminal=colour).print(preflight)
    return file.getvalue()


def preflight(*checks: Check) -> Preflight:
    return Preflight(target="host", folder="folder", checks=checks)


def test_every_check_carries_its_rule():
    expected = {"rule": "host.1.size", "name": "Size", "allowed": "at most 3", "source": "a page"}
    made = RULE.passed("2"), RULE.warned("3", "less"), RULE.failed("4", "less"), RULE.not_run("no scale", "buy one")
    assert [check.status for check in made] == ["pass", "warn", "fail", "not_run"]
    assert all(check.model_dump().items() >= expected.items() for check in made)
    assert RULE.unless("", "less", "2") == RULE.passed("2")
    assert RULE.unless("4", "less", "2") == RULE.failed("4", "less")


@pytest.mark.parametrize("status", ["warn", "fail", "not_run"])
def test_what_is_no_pass_has_a_fix(status):
    with pytest.raises(ValidationError, match="without a fix"):
        Check(rule="r", name="n", status=status, found="f", allowed="a", source="s")


def test_a_check_that_cannot_read_its_input_is_not_run():
    @rule("host.2.name", "Name", "any", "a page")
    def name(rule: Rule, text: str) -> Check:
        if not text:
            raise InputError("config.json is missing")
        return rule.passed(text)

    assert (name("x").status, name("x").rule) == ("pass", "host.2.name")
    assert (name("").status, name("").found) == ("not_run", "config.json is missing")


@pytest.mark.parametrize(
    ("checks", "verdict"),
    [
        ([RULE.passed("2")], "READY for host: 1 passed"),
        ([RULE.passed("2"), RULE.warned("3", "less")], "READY for host: 1 warned, 1 passed"),
        ([RULE.passed("2"), RULE.not_run("?", "do")], "NOT PROVEN for host: 1 not run, 1 passed"),
        ([RULE.failed("4", "less"), RULE.not_run("?", "do")], "NOT READY for host: 1 failed, 1 not run"),
    ],
)
def test_the_verdict(checks, verdict):
    assert preflight(*checks).verdict == verdict
    assert table(preflight(*checks)).rstrip().endswith(verdict)


def test_failed_are_the_failed_ones():
    bad = RULE.failed("4", "less")
    assert preflight(RULE.passed("2"), bad, RULE.not_run("?", "do")).failed == (bad,)


def test_json_reads_back(tmp_path):
    made = preflight(RULE.passed("2"), RULE.failed("4", "less"))
    made.write(tmp_path / "preflight.json")
    assert Preflight.model_validate_json((tmp_path / "preflight.json").read_text()) == made
    assert json.loads((tmp_path / "preflight.json").read_text())["checks"][1]["fix"] == "less"


def test_the_table_fits_80_columns_and_shows_all():
    long = "a word and " * 30 + "Z" * 200
    made = preflight(RULE.failed(long, long), RULE.passed(long), RULE.warned("3", "less"), RULE.not_run("?", "do"))
    text = table(made)
    assert max(map(len, text.splitlines())) <= 80
    assert all(word in text for word in ("FAIL", "WARN", "NOT RUN", "1 size", "allowed: at most 3", "fix: less"))
    assert "[1] a page" in text
    assert text.count("Z") == 2 * 200  # found and fix of what failed


def test_what_passed_is_counted_in_one_line():
    other = Rule("host.2.name", "Name", "any", "another page")
    assert table(preflight(RULE.passed("2"), other.passed("x"))) == (
        "host preflight of folder\n\n2 passed: 1 size, 2 name\n\nREADY for host: 2 passed\n"
    )
    mixed = table(preflight(RULE.passed("2"), other.failed("x", "less")))
    assert "1 passed: 1 size\n" in mixed and "[1] another page" in mixed and "a page\n" not in mixed.split("[1]")[0]
    assert " passed: " not in table(preflight(RULE.failed("4", "less")))


def test_what_needs_doing_is_next_to_the_verdict_and_has_colour():
    made = preflight(RULE.failed("4", "less"), RULE.warned("3", "less"), RULE.passed("2"))
    text = table(made)
    assert text.index("WARN") < text.index("FAIL")
    assert "\x1b[1;31mFAIL" in table(made, colour=True) and "\x1b[32m1 passed" in table(made, colour=True)


def test_markup_in_a_message_is_text():
    assert "[bold]x[/nothing]" in table(preflight(RULE.warned("[bold]x[/nothing]", "less")))


@pytest.mark.parametrize("error", [TypeError("no list"), KeyError("key"), AttributeError("items"), ValueError("no")])
def test_a_file_of_another_shape_fails_the_rule(error):
    @rule("host.1.size", "Size", "at most 3", "a page")
    def size(made):
        raise error

    check = size()
    assert check.status == "fail" and type(error).__name__ in check.found and check.fix
