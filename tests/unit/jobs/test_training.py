"""What a training cost."""

from __future__ import annotations

import resource
import sys
from types import SimpleNamespace

import pytest
import torch

from qat.jobs.stages.training import peak_memory_bytes


def test_peak_memory_is_in_bytes() -> None:
    # torch alone takes more than 50 MB; a number in kilobytes would be far below.
    assert 50e6 < peak_memory_bytes() < 1e12


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count a process from its own start")
def test_peak_memory_is_not_that_of_the_process_which_started_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    inherited = SimpleNamespace(ru_maxrss=1 << 40)
    monkeypatch.setattr(resource, "getrusage", lambda _: inherited)
    assert peak_memory_bytes() < 1e12


def test_peak_memory_is_the_gpus_where_one_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for held, found in ((7, 7), (0, None)):
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda held=held: held)
        assert (peak_memory_bytes() == found) if found else peak_memory_bytes() > 50e6
