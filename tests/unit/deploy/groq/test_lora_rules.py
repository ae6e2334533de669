from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qat.deploy.groq import lora_rules
from qat.deploy.groq.adapter import ARCHIVE, CONFIG, WEIGHTS, Adapter, pack, read
from qat.deploy.groq.lora_rules import RULES, Subject

A, B = "model.q_proj.lora_A.weight", "model.q_proj.lora_B.weight"
GOOD = Adapter(
    (CONFIG, WEIGHTS),
    {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none"},
    {A: torch.ones(8, 4, dtype=torch.float16), B: torch.ones(6, 8, dtype=torch.float16)},
)


def status(rule: str, adapter: Adapter, base_model: str | None = "base") -> str:
    (check,) = (made for made in (rule(Subject(adapter, base_model)) for rule in RULES) if made.rule.endswith(rule))
    return check.status


def test_a_good_adapter_passes_all_but_the_base_that_nobody_can_check() -> None:
    checks = [rule(Subject(GOOD, "base")) for rule in RULES]
    assert [check.status for check in checks] == ["pass"] * 7 + ["warn"]


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        (".files", {"files": (CONFIG, WEIGHTS, "README.md")}),
        (".files", {"files": (f"adapter/{CONFIG}", f"adapter/{WEIGHTS}")}),
        (".rank", {"config": {**GOOD.config, "r": 4}}),
        (".rank", {"config": {**GOOD.config, "r": 128}}),
        (".rank", {"config": {**GOOD.config, "rank_pattern": {"v_proj": 24}}}),
        (".config", {"config": {"r": 8}}),
        (".config", {"config": {**GOOD.config, "peft_type": "IA3"}}),
        (".dtype", {"tensors": {name: tensor.float() for name, tensor in GOOD.tensors.items()}}),
        (".dtype", {"tensors": {}}),
        (".values", {"tensors": {**GOOD.tensors, A: torch.full((8, 4), float("inf"), dtype=torch.float16)}}),
        (".tensors", {"tensors": {A: GOOD.tensors[A]}}),
        (".tensors", {"tensors": {**GOOD.tensors, "lm_head.weight": torch.ones(2, 2)}}),
        (".tensors", {"tensors": {**GOOD.tensors, B: torch.ones(6, 16)}}),
    ],
)
def test_each_rule_fails(rule: str, change: dict[str, Any]) -> None:
    assert status(rule, replace(GOOD, **change)) == "fail"


@pytest.mark.parametrize("r", lora_rules.RANKS)
def test_every_documented_rank_passes(r: int) -> None:
    assert status(".rank", replace(GOOD, config={**GOOD.config, "r": r})) == "pass"


@pytest.mark.parametrize("option", [{"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}])
def test_other_kinds_of_lora_are_warned_of(option: dict[str, Any]) -> None:
    assert status(".kind", replace(GOOD, config={**GOOD.config, **option})) == "warn"


def test_the_base_that_was_listed_is_said_to_have_ended() -> None:
    for given, status in ((None, "not_run"), ("llama-3.1-8b-instant", "warn")):
        check = lora_rules.base(Subject(GOOD, given))
        assert check.status == status
        assert "announced to end on 2026-08-16" in check.found
        assert "target.base_model=" in check.fix


def test_a_zip_of_peft_is_checked_as_it_lies(adapter: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).write_bytes(pack(read(adapter(r=16))))
    assert [check.status for check in lora_rules.check(tmp_path, "base")] == ["pass"] * 8 + ["warn"]
    with zipfile.ZipFile(tmp_path / ARCHIVE, "a") as archive:
        archive.writestr("more.txt", "")
    assert [check.rule for check in lora_rules.check(tmp_path, "base") if check.status == "fail"] == ["groq.L1.files"]


def test_what_cannot_be_read_is_a_failed_check(tmp_path: Path) -> None:
    (check,) = lora_rules.check(tmp_path, None)
    assert (check.rule, check.status) == ("groq.L0.adapter", "fail")
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    (tmp_path / ARCHIVE).write_bytes(empty.getvalue())
    (check,) = lora_rules.check(tmp_path, None)
    assert "adapter_config.json is not there" in check.found
