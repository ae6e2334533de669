"""Weights & Biases, offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from qat.training.loggers import log_artifact
from qat.training.loggers.wandb import WandbLogger, mode

Tiny = Any
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No mode, no key, no netrc file of the user's."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return monkeypatch


def test_offline_without_a_key(bare: pytest.MonkeyPatch) -> None:
    assert mode() == "offline"


def test_online_with_a_key(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("WANDB_API_KEY", KEY)
    assert mode() == "online"


@pytest.mark.parametrize(
    ("host", "server", "expected"),
    [
        ("api.wandb.ai", None, "online"),
        ("github.com", None, "offline"),
        ("wandb.example.org", "https://wandb.example.org", "online"),
        ("api.wandb.ai", "https://wandb.example.org", "offline"),
    ],
)
def test_a_key_in_the_netrc_file_counts_for_its_own_server(
    bare: pytest.MonkeyPatch, tmp_path: Path, host: str, server: str | None, expected: str
) -> None:
    (tmp_path / "netrc").write_text(f"machine {host} login user password {KEY}\n")
    (tmp_path / "netrc").chmod(0o600)
    if server:
        bare.setenv("WANDB_BASE_URL", server)
    assert mode() == expected


def test_the_users_own_mode_comes_first(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("WANDB_API_KEY", KEY)
    bare.setenv("WANDB_MODE", "disabled")
    assert mode() == "disabled"


class FakeRun:
    """What ``wandb.init`` returns, as far as it is used."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.id = options["id"]
        self.logged: list[dict[str, float]] = []
        self.artifacts: list[wandb.Artifact] = []
        self.exit_code: int | None = None

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def log_artifact(self, artifact: wandb.Artifact) -> None:
        self.artifacts.append(artifact)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """Every run that is started."""
    started: list[FakeRun] = []

    def init(**options: Any) -> FakeRun:
        started.append(FakeRun(options))
        return started[-1]

    monkeypatch.setattr(wandb, "init", init)
    return started


def test_a_training_is_one_run(tiny: Tiny, tmp_path: Path, runs: list[FakeRun]) -> None:
    logger = WandbLogger(tmp_path, project="p", entity="e", group="g", tags=("a", "b"))
    module = tiny.float()
    tiny.run(module, tmp_path, loggers=[logger], max_steps=3, val_every=3)
    assert len(runs) == 1
    assert [runs[0].options[key] for key in ("project", "entity", "group")] == ["p", "e", "g"]
    assert runs[0].options["tags"] == ["a", "b"]
    assert runs[0].options["mode"] == "offline"
    assert [values["trainer/global_step"] for values in runs[0].logged] == [1, 2, 3, 3]
    assert runs[0].logged[-1]["val/loss"] == module.validation_loss
    assert runs[0].exit_code == 0
    assert len(tiny.rows(tmp_path)) == 3  # metrics.csv all the same


def test_a_resume_goes_on_in_the_same_run(tmp_path: Path, runs: list[FakeRun]) -> None:
    for _ in range(2):
        logger = WandbLogger(tmp_path)
        logger.log_metrics({"loss": 1.0}, 1)
        logger.finalize("success")
    WandbLogger(tmp_path / "other").log_metrics({"loss": 1.0}, 1)
    ids = [run.id for run in runs]
    assert ids[0] == ids[1] != ids[2]
    assert runs[1].options["resume"] == "allow"


def test_a_failed_training_ends_its_run_as_failed(tiny: Tiny, tmp_path: Path, runs: list[FakeRun]) -> None:
    module = tiny.float()

    def training_step(batch: Any, batch_idx: int) -> Any:
        raise ValueError("stop")

    module.training_step = training_step
    with pytest.raises(ValueError, match="stop"):
        tiny.run(module, tmp_path, loggers=[WandbLogger(tmp_path)])
    assert runs[0].exit_code == 1


def test_the_config_is_the_redacted_one_of_the_run_folder(tmp_path: Path, runs: list[FakeRun]) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("seed: 3\ntoken: <redacted>\n")
    WandbLogger(tmp_path).log_metrics({"loss": 1.0}, 1)
    assert runs[0].options["config"] == {"seed": 3, "token": "<redacted>"}


def test_an_export_is_kept_as_an_artifact(tmp_path: Path, runs: list[FakeRun]) -> None:
    export = tmp_path / "export"
    export.mkdir()
    (export / "model.safetensors").write_bytes(b"abc")
    (export / "config.json").write_text("{}")
    log_artifact([WandbLogger(tmp_path)], export, "model-w4", "export")
    (artifact,) = runs[0].artifacts
    assert (artifact.name.partition(":")[0], artifact.type) == ("model-w4", "export")
    assert sorted(artifact.manifest.entries) == ["config.json", "model.safetensors"]
    assert runs[0].exit_code == 0


@pytest.fixture
def _own_run() -> Iterator[None]:
    yield
    wandb.teardown()


@pytest.mark.slow
@pytest.mark.usefixtures("_own_run")
def test_a_real_offline_run_holds_no_secret(
    tiny: Tiny, tmp_path: Path, bare: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "hf_abcdefghijklmnop"
    bare.setattr("sys.argv", ["qat", "train", f"data.token={secret}"])
    run_dir = tmp_path / "run"
    (run_dir / ".hydra").mkdir(parents=True)
    (run_dir / ".hydra" / "config.yaml").write_text("recipe: demo/shown\ndata:\n  token: <redacted>\n")
    logger = WandbLogger(run_dir)
    print(f"a library prints {secret}")
    tiny.run(tiny.float(), run_dir, loggers=[logger], max_steps=2)
    wandb.teardown()  # as at the end of a process: waits until the file is whole
    files = [file for file in (run_dir / "wandb").rglob("*") if file.is_file()]
    content = b"".join(file.read_bytes() for file in files)
    assert [file for file in files if file.suffix == ".wandb"]
    assert b"demo/shown" in content
    assert b"train/loss" in content
    assert secret.encode() not in content
