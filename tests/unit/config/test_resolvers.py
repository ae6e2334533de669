"""``${shared_data:...}``."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from qat.config import resolvers
from qat.config.explain import explain
from qat.errors import InputError


def test_the_variable_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QAT_SHARED_DATA", str(tmp_path))
    resolvers.register()
    assert OmegaConf.create({"a": "${shared_data:models/x}"}).a == str(tmp_path / "models" / "x")


def test_without_it_the_data_lies_beside_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shared" / "data").mkdir(parents=True)
    (tmp_path / "checkout").mkdir()
    monkeypatch.chdir(tmp_path / "checkout")
    monkeypatch.delenv("QAT_SHARED_DATA", raising=False)
    assert resolvers.shared_data("text/a.txt") == "../shared/data/text/a.txt"


def test_absent_data_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QAT_SHARED_DATA", str(tmp_path / "gone"))
    resolvers.register()
    with pytest.raises(Exception, match="gone") as caught:
        OmegaConf.to_container(OmegaConf.create({"a": "${shared_data:models/x}"}), resolve=True)
    error = explain(caught.value)
    assert isinstance(error, InputError)
    assert str(error).endswith("this recipe reads models/x in it: set QAT_SHARED_DATA=<folder>")
