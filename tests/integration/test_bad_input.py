"""Input that cannot be used: one line that says why, exit code 2, and nothing written. Then: no disk space, Ctrl-C."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import checkpoint

from qat.export import base as export_base
from qat.export.compressed_tensors import CompressedTensorsExporter
from qat.jobs.stages import inputs
from qat.jobs.stages.evaluation import Evaluation

pytestmark = pytest.mark.slow

Qat = Any
Contents = Callable[[Path], dict[str, bytes]]
WEIGHTS = "model.safetensors"
GROUP = "scheme.config_groups.weights"
WEIGHTS_OF, INPUTS_OF = f"{GROUP}.weights", f"{GROUP}.input_activations"
PROGRESSIVE = "+phase@schedule.x=progressive_bits"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a command is run in; it must be left as it was."""
    monkeypatch.delenv("QAT_DEBUG", raising=False)
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.fixture
def refused(qat: Qat, small: list[str], place: Path, cache: Path, contents: Contents) -> Callable[..., str]:
    """Run a command that must be refused, and return its message."""

    def run(*words: object, command: str = "run") -> str:
        before = contents(place)
        message: str = qat(command, *small, *words, cwd=place).error()
        assert contents(place) == before
        assert list(cache.rglob("*.tmp")) == []
        return message

    return run


@pytest.fixture
def broken(llama: Path, place: Path) -> Path:
    """A copy of a valid model folder, for a test to break."""
    return Path(shutil.copytree(llama, place / "broken"))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("recipe=demo/w4a16_lqs", "recipe 'demo/w4a16_lqs' not found; did you mean 'demo/w4a16_lsq'"),
        ("recipe=stories260K/w4a16_lsq", "did you mean 'stories260k/w4a16_lsq'"),
        ("scheme=w4a16_g23", "scheme 'w4a16_g23' not found; did you mean 'w4a16_g32'"),
        ("export=compresed_tensors", "export 'compresed_tensors' not found; did you mean 'compressed_tensors'"),
        ("loss=distil", "loss 'distil' not found; did you mean 'distill'"),
        ("trainer.max_stepz=5", "trainer has no option 'max_stepz'; did you mean 'max_steps'"),
        ("scheme.scale_fromat=bf16", "scheme has no option 'scale_fromat'; did you mean 'scale_format'"),
        ("evaluate.block=4", "evaluate has no option 'block'; did you mean 'blocks'"),
        ("+optimizer.learning_rate=1", "optimizer has no option 'learning_rate'"),
        ("model.path=nowhere/at/all", "no folder 'nowhere/at/all'; give a folder with config.json, or a hub id"),
        ("sede=1", "there is no option 'sede'; did you mean 'seed'"),
        ("scheme.scale_format=bf61", "bf61"),
        ("scheme.config_groups.weights.weights.strategy=grup", "grup"),
        ("optimizer.schedule=cosin", "did you mean 'cosine'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(refused: Callable[..., str], word: str, message: str) -> None:
    assert message in refused(word)


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def config_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def pickle_only(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def truncated(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 1)


def truncated_in_the_header(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, 100)


def empty_file(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, 0)


def _edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def other_shape(folder: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    _edit(folder, lambda tensors: tensors.update({name: torch.zeros(48, 32)}))


def tensor_missing(folder: Path) -> None:
    _edit(folder, lambda tensors: tensors.pop("model.layers.0.self_attn.q_proj.weight"))


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (no_config, ["config.json"]),
        (config_is_no_json, ["config.json is not a JSON object"]),
        (pickle_only, ["has pickle weights only (pytorch_model.bin)"]),
        (no_weights, ["has no weights; expected model.safetensors"]),
        (truncated, ["model.safetensors is truncated or malformed"]),
        (truncated_in_the_header, ["model.safetensors is truncated or malformed"]),
        (empty_file, ["model.safetensors is truncated or malformed"]),
        (other_shape, ["model.layers.1.mlp.up_proj.weight", "[48, 32]", "[64, 32]"]),
        (tensor_missing, ["no tensor 'model.layers.0.self_attn.q_proj.weight'"]),
        (no_tokenizer, ["no tokenizer in ", "name a folder that has one with model.tokenizer="]),
    ],
)
def test_a_model_folder_that_cannot_be_used(
    refused: Callable[..., str], broken: Path, damage: Callable[[Path], None], parts: list[str]
) -> None:
    damage(broken)
    for command in ("run", "evaluate"):
        message = refused(f"model.path={broken}", command=command)
        assert str(broken) in message
        assert all(part in message for part in parts), message


def test_a_process_of_its_own_says_the_same(
    qat: Qat, small: list[str], broken: Path, place: Path, contents: Contents
) -> None:
    """With nothing on either stream but the stages so far, whatever the libraries print when imported."""
    truncated(broken)
    before = contents(place)
    for words, message in (
        (["run", "recipe=demo/w4a16_lqs"], "did you mean 'demo/w4a16_lsq'"),
        (["run", *small, f"model.path={broken}"], "model.safetensors is truncated or malformed"),
        (["run", *small, f"{GROUP}.targets=[Conv2d]"], "target 'Conv2d' of the scheme matches no Linear"),
    ):
        outcome = qat.process(*words, cwd=place)
        assert message in outcome.error()
        assert [line for line in outcome.out.splitlines() if not line.endswith(" ...")] == [], "stages, and no more"
    assert contents(place) == before


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["is empty or only white space"]),
        (b" \n\t\n", ["is empty or only white space"]),
        (b"caf\xe9", ["is not UTF-8: byte 0xe9 at offset 3", "iconv"]),
        ("text".encode("utf-16"), ["is not UTF-8: byte 0xff at offset 0"]),
        (b"too short", ["tokens, fewer than one block of block_size=32; give more text"]),
    ],
)
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_text_that_cannot_be_used(
    refused: Callable[..., str], place: Path, content: bytes, parts: list[str], split: str
) -> None:
    """Whichever split it is in, it is found before the first step."""
    path = place / "bad.txt"
    path.write_bytes(content)
    message = refused(f"data.{split}=[{path}]", "trainer.val_every=1")
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("command", "words", "splits"),
    [
        ("train", [], ["train", "validation"]),
        ("train", ["~scheme"], ["train", "validation", "test"]),
        ("ptq", [], ["test"]),
        ("ptq", ["scheme=w8a8_static"], ["train", "test"]),
        ("evaluate", [], ["test"]),
    ],
)
def test_every_command_reads_its_text_before_it_begins(
    refused: Callable[..., str], place: Path, command: str, words: list[str], splits: list[str]
) -> None:
    (place / "bad.txt").write_bytes(b"caf\xe9")
    for split in splits:
        message = refused(f"data.{split}=[bad.txt]", "trainer.val_every=1", *words, command=command)
        assert "bad.txt is not UTF-8" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.block_size=129"], "trainer.block_size=129 is longer than the context of llama, 128 tokens"),
        ([f"{WEIGHTS_OF}.num_bits=1"], "num_bits is 1; allowed are 2 to 8"),
        ([f"{WEIGHTS_OF}.num_bits=9"], "num_bits is 9; allowed are 2 to 8"),
        (["scheme=w8a8", f"{INPUTS_OF}.num_bits=16"], "input_activations: num_bits is 16; allowed are 2 to 8"),
        ([PROGRESSIVE, "schedule.x.bits=[9,4]"], "bits=9 must be an integer from 2 to 8"),
        ([PROGRESSIVE, "schedule.x.bits=[8,1]"], "bits=1 must be an integer from 2 to 8"),
        ([f"{GROUP}.targets=[Conv2d]"], "target 'Conv2d' of the scheme matches no Linear or Embedding"),
        ([f"{GROUP}.targets=['re:.*no.such.*']"], "target 're:.*no.such.*' of the scheme matches no"),
        (
            [f"{GROUP}.targets=[model.layers.9.mlp.up_proj]"],
            "target 'model.layers.9.mlp.up_proj' of the scheme matches no",
        ),
        ([f"{GROUP}.targets=[Linear,Conv2d]"], "target 'Conv2d' of the scheme matches no"),
        (["scheme.ignore=['re:.*']"], "the scheme ignores every module it targets"),
        (["scheme=w4a16_g128"], "group_size 128 does not divide the 32 inputs of model.layers.0.self_attn.q_proj"),
        (["run_dir=there"], "run_dir=there exists; choose another, or continue it with resume=there"),
        (["run_dir=there/metrics.json/run"], "the run folder there/metrics.json/run cannot be made (Not a directory)"),
        (["trainer.max_steps=0"], "trainer.max_steps=0 must be 1 or more"),
        (["optimizer.lr=-1"], "optimizer.lr=-1.0 must be 0 or more"),
        (["optimizer.betas=[2,3]"], "must be two numbers from 0 to below 1"),
        (["model.dtype=bfloat16"], "training needs float32 weights; set model.dtype=float32"),
        (["evaluate.blocks=0"], "evaluate.blocks=0 must be 1 or more"),
        (["evaluate.generate=true", "evaluate.max_new_tokens=200"], "do not fit the model's context of 128"),
        (["loss=distill", "loss.teacher=tuned_float"], "set baseline.tuned_float=true"),
        (["export.compressed_tensors.max_shard_size=big"], "max_shard_size 'big' is no size"),
    ],
)
def test_an_option_that_cannot_be_used(
    refused: Callable[..., str], place: Path, words: list[str], message: str
) -> None:
    """None of them is found after the training, or in its middle."""
    (place / "there").mkdir()
    (place / "there" / "metrics.json").write_text("{}")
    assert message in refused(*words)


def test_a_logger_whose_package_is_missing(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qat.training.loggers.tensorboard.find_spec", lambda _: None)
    assert "pip install '.[tensorboard]'" in refused("logger=tensorboard")


def test_a_training_of_nothing_in_particular(qat: Qat, place: Path) -> None:
    for command in ("run", "train"):
        assert "say what to train" in qat(command, cwd=place).error(code=2)
    assert list(place.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there(refused: Callable[..., str]) -> None:
    for command in ("run", "evaluate"):
        message = refused("trainer.device=gpu", command=command)
        assert message.startswith("trainer.device=gpu is not available here; available: auto, ")


def test_a_file_is_no_run_folder(refused: Callable[..., str], place: Path) -> None:
    (place / "there").write_text("")
    assert "run_dir=there exists" in refused("run_dir=there")
    assert "there is not a run folder" in refused("resume=there", command="train")


# No disk space left


@pytest.fixture(scope="module")
def finished(qat: Qat, small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training, to export from."""
    place = tmp_path_factory.mktemp("finished")
    assert qat("train", *small, "run_dir=run", cwd=place).code == 0
    return place / "run"


@pytest.fixture
def run(finished: Path, place: Path) -> Path:
    return Path(shutil.copytree(finished, place / "run"))


@pytest.fixture
def disk(place: Path) -> Iterator[Callable[[Path, int], None]]:
    """Mount a disk of so many bytes at a folder of ``place``, or give the one there another size."""
    mounted: set[Path] = set()

    def mount(folder: Path, size: int, mode: str = "rw") -> None:
        folder.mkdir(exist_ok=True)
        options = f"remount,{mode},size={size}" if folder in mounted else f"{mode},size={size}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no command `mount` to make a small disk with")
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")
        mounted.add(folder)

    yield mount
    for folder in mounted:  # lazily: weights that were read from it may still be mapped
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def assert_nothing_exported(place: Path, before: dict[str, bytes], contents: Contents) -> None:
    after = contents(place)
    after.pop("run/exports", None)
    before.pop("run/exports", None)
    assert after == before


def test_an_export_onto_a_full_disk(
    qat: Qat, run: Path, place: Path, disk: Callable[[Path, int], None], contents: Contents
) -> None:
    """It says how much it needs, all of it and not much more; with that space, the same command works."""
    disk(run / "exports", 160 * 1024)
    before = contents(place)
    message = qat("export", f"run={run}", cwd=place).error(code=2)
    assert f"no disk space left for {run / 'exports' / 'compressed_tensors'}: it needs about " in message
    assert " bytes and 163,840 are free; free some there" in message
    assert_nothing_exported(place, before, contents)
    needed = int(message.split("about ")[1].split(" bytes")[0].replace(",", ""))
    disk(run / "exports", -(-needed // 4096) * 4096)
    assert qat("export", f"run={run}", cwd=place).code == 0
    written = sum(len(content) for name, content in contents(run / "exports").items())
    assert written < needed < written + 2**18
    assert qat("validate", f"run={run}", cwd=place).code == 0


def test_a_disk_that_says_it_has_room_and_has_not(
    qat: Qat,
    run: Path,
    place: Path,
    disk: Callable[[Path, int], None],
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A quota, or another process that is faster: the library that writes the weights is the one to fail."""
    monkeypatch.setattr(export_base.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**40))
    disk(run / "exports", 64 * 1024)
    before = contents(place)
    assert "no disk space left for" in qat("export", f"run={run}", cwd=place).error(code=2)
    assert_nothing_exported(place, before, contents)


def test_a_disk_that_is_full_by_a_stand_in(
    qat: Qat, run: Path, place: Path, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same where a test may not mount a disk."""

    def full(checkpoint: object, folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    monkeypatch.setattr(export_base, "copy_side_files", full)
    before = contents(place)
    assert "no disk space left for" in qat("export", f"run={run}", cwd=place).error(code=2)
    assert_nothing_exported(place, before, contents)


def test_an_export_onto_a_disk_that_is_read_only(
    qat: Qat, run: Path, place: Path, disk: Callable[..., None], contents: Contents
) -> None:
    disk(run / "exports", 2**24)
    assert qat("export", f"run={run}", cwd=place).code == 0
    disk(run / "exports", 2**24, "ro")
    before = contents(place)
    for words in (["overwrite=true"], ["export=dequantized", "export.dequantized.dtype=float32"]):
        message = qat("export", f"run={run}", *words, cwd=place).error(code=2)
        assert "cannot be written (Read-only file system); make its folder writable, or copy the run folder" in message
    assert contents(place) == before


def test_an_overwrite_onto_a_full_disk_keeps_the_old_export(
    qat: Qat, run: Path, place: Path, disk: Callable[..., None], contents: Contents
) -> None:
    """There must be room for both, until the new one is complete."""
    disk(run / "exports", 2**24)
    assert qat("export", f"run={run}", cwd=place).code == 0
    size = sum(len(content) for name, content in contents(run / "exports").items())
    disk(run / "exports", size + 2**17)
    before = contents(place)
    assert "no disk space left for" in qat("export", f"run={run}", "overwrite=true", cwd=place).error(code=2)
    assert contents(place) == before


def test_a_training_on_a_full_disk_goes_on_when_there_is_space(
    qat: Qat, run: Path, small: list[str], place: Path, disk: Callable[[Path, int], None]
) -> None:
    for room in (16, 64, 2000):  # full before the first step, at the first checkpoint, at the second one
        folder = place / f"disk{room}"
        disk(folder, room * 1024)
        outcome = qat("train", *small, "trainer.save_every=1", f"run_dir={folder / 'run'}", cwd=place)
        assert outcome.code == 2
        assert outcome.err.splitlines()[-1].startswith("qat: error: ")
        assert "space left" in outcome.err.splitlines()[-1]
        assert "Traceback" not in outcome.err
        assert not list(folder.rglob("*.tmp"))
        disk(folder, 2**24)
        assert qat("train", f"resume={folder / 'run'}", cwd=place).code == 0
        found = (folder / "run" / "quantized" / WEIGHTS).read_bytes()
        assert found == (run / "quantized" / WEIGHTS).read_bytes()


@pytest.mark.parametrize("room", [4, 32, 200])
def test_a_quantized_checkpoint_on_a_full_disk(
    qat: Qat, small: list[str], place: Path, disk: Callable[[Path, int], None], room: int
) -> None:
    disk(place / "disk", room * 1024)
    message = qat("ptq", *small, "run_dir=disk/run", cwd=place).error(code=2)
    assert message.startswith("no disk space left")
    assert "resume" not in message  # a ptq has nothing to resume
    assert list((place / "disk").iterdir()) == []


# Ctrl-C


def test_ctrl_c_saves_and_says_how_to_resume(qat: Qat, text_words: list[str], place: Path) -> None:
    """As a terminal does it: every process of the group gets the signal, here also one that reads blocks."""
    words = [
        *("model.pretrained=false", *text_words, *qat.one_thread, "trainer.workers=1"),
        *("trainer.max_steps=12", "trainer.batch_size=8", "trainer.block_size=64"),
        *("trainer.val_every=0", "trainer.log_every=1"),
    ]
    child = qat.start("train", *words, "run_dir=run", cwd=place)
    metrics = place / "run" / "metrics.csv"
    while child.poll() is None and (not metrics.exists() or metrics.read_bytes().count(b"\n") < 3):
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 130
    assert "stopping after this step; once more stops at once, without saving" in err
    last = err.splitlines()[-1]
    step = int(last.split("step ")[1].split()[0])
    assert last == f"qat: interrupted after step {step} of 12; resume with: qat train resume=run"
    assert 2 <= step < 12
    assert "Traceback" not in err
    saved = checkpoint(place / "run")
    assert saved["global_step"] == step
    assert not (place / "run" / "quantized").exists()

    resumed = qat("train", "resume=run", cwd=place)
    assert resumed.code == 0
    assert qat("train", *words, "run_dir=whole", cwd=place).code == 0
    found, expected = (place / run / "quantized" / WEIGHTS for run in ("run", "whole"))
    assert found.read_bytes() == expected.read_bytes()
    steps = [int(line.split(",")[0]) for line in metrics.read_text().splitlines()[1:]]
    assert steps == list(range(1, 13))


def interrupt(*args: object, **options: object) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_before_anything_is_written(
    qat: Qat, small: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "build_tokens", interrupt)
    outcome = qat("run", *small, cwd=place)
    assert (outcome.code, outcome.err) == (130, "qat: interrupted; nothing was written\n")
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("owner", "name", "left"), [(CompressedTensorsExporter, "write_files", False), (Evaluation, "score", True)]
)
def test_ctrl_c_after_the_training(
    qat: Qat, small: list[str], place: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, left: bool
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupt)
        outcome = qat("run", *small, "run_dir=run", cwd=place)
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == "qat: interrupted; resume with: qat run resume=run"
    assert {path.name for path in (place / "run").glob("exports/*")} == ({"compressed_tensors"} if left else set())
    assert not (place / "run" / "metrics.json").exists()
    assert qat("run", "resume=run", cwd=place).code == 0
    found = json.loads((place / "run" / "metrics.json").read_text())
    assert found["exports"]["compressed_tensors"]["mismatched_codes"] == 0
