"""``qat serve``: what it refuses before it looks for an export, and what it says when."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from qat.cli.main import main
from qat.config.hosting import ServeConfig
from qat.engines.llama_cpp import LlamaCppEngine
from qat.engines.transformers import TransformersEngine
from qat.errors import InputError
from qat.jobs import serve as job


@pytest.mark.parametrize("name", ["onnxruntime", "torchao", "gptqmodel", "transformers_4_51"])
def test_an_engine_without_a_server_is_told_before_any_run_is_read(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["serve", "run=nowhere", f"engine={name}"])
    said = capsys.readouterr().err
    assert f"engine={name} has no server" in said
    assert "serve with engine=transformers, llama_cpp, vllm" in said


def test_a_run_without_an_export_for_the_engine_is_told_with_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "exports" / "onnx").mkdir(parents=True)
    folder = SimpleNamespace(path=tmp_path, exports=tmp_path / "exports")
    with pytest.raises(InputError, match=r"has no export that engine llama_cpp loads \(gguf\): it has onnx; write one"):
        job._export(folder, None, "llama_cpp", LlamaCppEngine())


def test_what_is_served_is_said_after_the_engines_own_checks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SimpleNamespace(path=Path("run"))
    monkeypatch.setattr(job.finished, "take_up", lambda *_: folder)
    monkeypatch.setattr(job.finished, "checkpoint", lambda _: SimpleNamespace(task="causal_lm"))
    monkeypatch.setattr(job.finished, "name_of", lambda _: "tiny")
    monkeypatch.setattr(job, "_export", lambda *_: Path("run/exports/dequantized"))
    monkeypatch.setattr(job, "serve", lambda launch, *_: launch(1))
    settings = ServeConfig(
        run="run",
        engine={"transformers": {"_target_": "qat.engines.transformers.TransformersEngine"}},
        gateway={"_target_": "qat.serve.gateway.options.Gateway"},
    )

    def refuse(*_: object) -> None:
        raise InputError("no chat template")

    monkeypatch.setattr(TransformersEngine, "server", refuse)
    with pytest.raises(InputError, match="no chat template"):
        job.main(settings)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(TransformersEngine, "server", lambda *_: None)
    job.main(settings)
    assert capsys.readouterr().out == "run/exports/dequantized on transformers\n"
