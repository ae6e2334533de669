"""The logits of rule 7. The engines are real processes where transformers 4.51.3 has its environment."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from qat.deploy.bedrock import parity
from qat.engines.base import NotAvailable
from qat.engines.transformers_4_51 import Transformers451Engine
from qat.errors import InputError, RunError

HERE = torch.randn(4, 8, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def logits_of(found, good, given):
    """``logits_of(parity=...)`` is the check of the logits of the good folder."""
    return lambda **options: found(good, "7.logits", replace(given, **{"parity": True} | options))


@pytest.fixture
def answers(monkeypatch):
    """``answers(there)``: what transformers 4.51.3 says, while 5 says ``HERE``; no process is started."""

    def play(there):
        class Scripted:
            def __init__(self, config):
                self.there = config["_target_"].endswith("Transformers451Engine")

            def missing(self):
                return None

            def load(self, directory):
                if self.there and isinstance(there, Exception):
                    raise there

            def logits(self, tokens):
                assert tokens.shape == (4, 64) and tokens.dtype == torch.int64
                assert tokens.min() >= 0 and tokens.max() < 1024
                return there if self.there else HERE

            __enter__ = lambda self: self  # noqa: E731
            __exit__ = lambda self, *error: None  # noqa: E731

        monkeypatch.setattr(parity, "Isolated", Scripted)

    return play


def bumped(by):
    there = HERE.clone()
    there[1, 2, 3] += by
    return there


@pytest.mark.parametrize(
    ("there", "status"),
    [
        (HERE, "pass"),
        (bumped(9e-5), "pass"),
        (bumped(2e-4), "fail"),
        (bumped(float("nan")), "fail"),
        (HERE[:, :, :4], "fail"),
        (InputError("cannot load"), "fail"),
        (NotAvailable("not in its dialect"), "fail"),
        (RunError("was killed"), "not_run"),
    ],
)
def test_the_limit(logits_of, answers, there, status):
    answers(there)
    assert logits_of().status == status


def test_the_difference_is_told(logits_of, answers):
    there = HERE.clone()
    there[0, 0] = -there[0, 0]
    answers(there)
    largest = (2 * HERE[0, 0]).abs().max().item()
    assert logits_of().found == f"largest difference {largest:.2g}, top-1 agreement {31 / 32:.1%}, 256 tokens"


def test_not_installed_is_not_run(logits_of, monkeypatch, tmp_path):
    monkeypatch.setenv("QAT_ENGINES", str(tmp_path / "none"))
    check = logits_of()
    assert (check.status, check.fix) == ("not_run", "scripts/engines.sh transformers_4_51")
    assert check.found == "transformers 4.51.3: not installed"


def test_switched_off_is_not_run(logits_of, answers):
    answers(HERE)
    assert logits_of(parity=False).status == "not_run"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": ["T5ForConditionalGeneration"]}, "no causal language model"),
        ({"architectures": None}, "no causal language model"),
        ({"vocab_size": None}, "no vocab_size"),
        ({"vocab_size": 0}, "no vocab_size"),
    ],
)
def test_what_cannot_be_asked_is_not_run(logits_of, answers, edit, changes, reason):
    answers(HERE)
    edit("config.json", **changes)
    check = logits_of()
    assert check.status == "not_run" and reason in check.found


def test_a_model_that_does_not_fit_the_memory_is_not_run(logits_of, answers, monkeypatch):
    answers(HERE)
    monkeypatch.setattr(parity.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 100}.get)
    check = logits_of()
    assert check.status == "not_run" and "memory" in check.found


@pytest.fixture
def real():
    """Skips where there is no transformers 4.51.3."""
    if (reason := Transformers451Engine().missing()) is not None:
        pytest.skip(f"transformers_4_51: {reason}")


@pytest.mark.slow
def test_a_good_folder_in_the_real_engines(real, logits_of, edit):
    edit("config.json", rope_theta=500000.0)  # no default of either version
    check = logits_of()
    assert check.status == "pass", check.found
    assert check.found.endswith("top-1 agreement 100.0%, 256 tokens")


@pytest.mark.slow
def test_a_folder_of_transformers_5_fails(real, good, logits_of):
    path = good / "config.json"
    config = json.loads(path.read_text())
    del config["rope_theta"], config["rope_scaling"]
    path.write_text(json.dumps(config | {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}))
    check = logits_of()
    assert check.status == "fail" and "dialect" in check.found


@pytest.mark.slow
def test_a_folder_that_451_cannot_load_fails(real, good, logits_of):
    tensors = load_file(good / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, good / "model.safetensors", {"format": "pt"})
    (good / "model.safetensors.index.json").unlink()
    check = logits_of()
    assert check.status == "fail" and "model.norm.weight" in check.found
