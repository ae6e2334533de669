"""What a job says while it works."""

from __future__ import annotations

import pytest
from rich.console import Console

from qat.jobs.stages.console import begin


@pytest.mark.parametrize(("terminal", "printed"), [(False, "scoring [red]float ...\n"), (True, "")])
def test_a_stage_is_announced_where_no_bar_is_seen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool, printed: str
) -> None:
    monkeypatch.setattr(Console, "is_terminal", terminal)
    begin("scoring [red]float")
    assert capsys.readouterr() == (printed, "")
