"""What a teacher says, written once: the bytes, the key, and what a stop on the way leaves."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qat.data import cache_entry
from qat.data.tokens import TokenBlocks
from qat.errors import DiskFull, InputError
from qat.training import teacher_cache
from qat.training.datamodule import QATDataModule
from qat.training.losses import Distill, DistillTopK
from qat.training.losses.divergence import top_k_log_probs
from qat.training.module import QATModule
from qat.training.optim import OptimizerConfig
from qat.training.teacher_cache import Taught, digest, teach
from qat.training.trainer import TrainerConfig, fit

Tiny = Any
K, BLOCK, COUNT, VOCABULARY = 5, 8, 7, 64
CPU = torch.device("cpu")


@pytest.fixture
def blocks(tmp_path: Path) -> TokenBlocks:
    """A token cache entry of seven blocks and a tail."""
    folder = tmp_path / "tokens" / "0123"
    folder.mkdir(parents=True)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, COUNT * BLOCK + 3).astype("<u2")
    (folder / "tokens.bin").write_bytes(tokens.tobytes())
    cache_entry.write_meta(folder, [folder / "tokens.bin"], split="train", tokens=len(tokens), dtype="<u2")
    return TokenBlocks(folder, BLOCK)


@pytest.fixture
def ask(tmp_path: Path, blocks: TokenBlocks) -> Callable[..., Taught]:
    def ask(teacher: Any, k: int = K, batch_size: int = 2, said: list[str] | None = None) -> Taught:
        return teach(teacher, blocks, k, batch_size, CPU, (said if said is not None else []).append, tmp_path)

    return ask


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "teacher").iterdir() if path.suffix != ".lock")


def test_an_item_is_what_the_teacher_says(tiny: Tiny, ask: Callable[..., Taught], blocks: TokenBlocks) -> None:
    teacher, said = tiny.llama(), []
    taught = ask(teacher, said=said)
    assert not teacher.training, "dropout would be another answer each time"
    assert len(taught) == len(blocks) == COUNT
    for index in range(COUNT):
        item = taught[index]
        assert torch.equal(item["input_ids"], blocks[index]["input_ids"])
        with torch.no_grad():
            ids, log_probs = top_k_log_probs(teacher(item["input_ids"][None]).logits[0], K)
        assert torch.equal(item["teacher_ids"], ids)
        torch.testing.assert_close(item["teacher_log_probs"], log_probs.half(), atol=2e-3, rtol=2e-3)
        assert item["teacher_ids"].dtype == torch.int64
    assert taught.nbytes == COUNT * BLOCK * (K * 2 + (K + 1) * 2)
    assert taught.nbytes == sum((taught.folder / name).stat().st_size for name in ("ids.bin", "log_probs.bin"))
    assert said == [f"the teacher's 5 likeliest tokens of 7 blocks: 0.0 MB in {taught.folder}"]


def test_it_is_asked_once(tiny: Tiny, ask: Callable[..., Taught], tmp_path: Path) -> None:
    teacher, said = tiny.llama(), []
    first = ask(teacher)
    teacher.register_forward_hook(lambda *_: pytest.fail("asked again"))
    second = ask(teacher, said=said)
    assert said == []
    assert second.folder == first.folder
    assert entries(tmp_path) == [first.folder.name]


def test_the_key_is_what_decides_the_content(tiny: Tiny, ask: Callable[..., Taught], blocks: TokenBlocks) -> None:
    teacher = tiny.llama()
    folders = {ask(teacher).folder, ask(teacher, batch_size=3).folder}
    assert len(folders) == 1, "how many are asked at once decides nothing"
    folders.add(ask(teacher, k=K + 1).folder)
    with torch.no_grad():
        teacher.model.norm.weight[0] += 1
    folders.add(ask(teacher).folder)
    teacher.config.rms_norm_eps = 0.5
    folders.add(ask(teacher).folder)
    folders.add(
        teach(teacher, TokenBlocks(blocks.folder, BLOCK // 2), K, 2, CPU, print, blocks.folder.parents[1]).folder
    )
    assert len(folders) == 5


def test_the_digest_sees_names_dtypes_and_values(tiny: Tiny) -> None:
    model = tiny.llama()
    assert digest(model) == digest(tiny.llama())
    assert digest(model) != digest(tiny.llama().bfloat16())
    model.config._name_or_path = "elsewhere"
    assert digest(model) == digest(tiny.llama()), "where it lies decides nothing"


@pytest.mark.parametrize("stop", [0, 1, 2, 3])
@pytest.mark.parametrize("damage", [False, True])
def test_a_stop_on_the_way(tiny: Tiny, ask: Callable[..., Taught], tmp_path: Path, stop: int, damage: bool) -> None:
    """Stopped at batch ``stop`` of four; the files may then end in the middle of a row, or in zeros."""
    whole = ask(tiny.llama())
    expected = {name: (whole.folder / name).read_bytes() for name in ("ids.bin", "log_probs.bin", "meta.json")}
    shutil.rmtree(whole.folder)
    teacher, asked = tiny.llama(), []

    def fail(module: Any, args: Any, output: Any) -> None:
        asked.append(1)
        if len(asked) == stop + 1:
            raise KeyboardInterrupt

    handle = teacher.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        ask(teacher)
    handle.remove()
    (partial,) = entries(tmp_path)
    assert partial == f".{whole.folder.name}.partial"
    ids = tmp_path / "teacher" / partial / "ids.bin"
    assert ids.stat().st_size == stop * 2 * BLOCK * K * 2
    if damage and stop:
        os.truncate(ids, ids.stat().st_size - 3)
        with ids.open("ab") as file:
            file.write(b"\0" * 3)
    asked.clear()
    teacher.register_forward_hook(lambda *_: asked.append(1))
    resumed = ask(teacher)
    assert len(asked) == 4 - max(0, stop - 1), "all but the last batch before the stop are kept"
    assert entries(tmp_path) == [resumed.folder.name]
    assert {name: (resumed.folder / name).read_bytes() for name in expected} == expected


def test_a_damaged_entry_is_written_again(
    tiny: Tiny, ask: Callable[..., Taught], caplog: pytest.LogCaptureFixture
) -> None:
    first = ask(tiny.llama())
    expected = (first.folder / "ids.bin").read_bytes()
    (first.folder / "ids.bin").write_bytes(bytes(len(expected)))
    said: list[str] = []
    again = ask(tiny.llama(), said=said)
    assert (again.folder / "ids.bin").read_bytes() == expected
    assert len(said) == 1 and "teacher cache entry" in caplog.text and "is damaged" in caplog.text


def test_a_full_disk_is_told_before_anything_is_written(
    tiny: Tiny, ask: Callable[..., Taught], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(teacher_cache.shutil, "disk_usage", lambda _: usage)
    teacher = tiny.llama()
    teacher.register_forward_hook(lambda *_: pytest.fail("asked"))
    with pytest.raises(DiskFull, match=r"needs 0\.0 MB.*choose a smaller loss\.k"):
        ask(teacher)


def test_more_tokens_than_there_are(tiny: Tiny, ask: Callable[..., Taught]) -> None:
    with pytest.raises(InputError, match=r"loss\.k=65 is above the model's vocabulary of 64 tokens"):
        ask(tiny.llama(), k=65)
    assert torch.equal(ask(tiny.llama(), k=64)[0]["teacher_log_probs"][:, -1], torch.full((BLOCK,), -torch.inf).half())


def test_large_vocabularies_have_wider_ids() -> None:
    small, large = (teacher_cache._Layout(1, 1, 3, size) for size in (2**16, 2**16 + 1))
    assert (small.files["ids.bin"][0], large.files["ids.bin"][0]) == (np.dtype("<u2"), np.dtype("<u4"))
    assert (small.nbytes, large.nbytes) == (3 * 4 + 2, 3 * 6 + 2)


def test_a_data_worker_maps_the_files_itself(tiny: Tiny, ask: Callable[..., Taught]) -> None:
    taught = ask(tiny.llama())
    copied = pickle.loads(pickle.dumps(taught))
    assert len(pickle.dumps(taught)) < 2000
    assert all(torch.equal(value, copied[3][name]) for name, value in taught[3].items())


def train(tiny: Tiny, folder: Path, data: Any, loss: Any, teacher: Any, **options: Any) -> QATModule:
    module = QATModule(tiny.llama(0.0), loss, OptimizerConfig(), "causal_lm", 0, teacher=teacher)
    sizes = {"max_steps": 6, "batch_size": 2, "block_size": BLOCK}
    config = TrainerConfig(**sizes, val_every=3, save_every=2, log_every=1, device="cpu")
    fit(module, QATDataModule(data, data.blocks, 2, 0), config, [], folder, **options)
    return module


def test_training_with_all_tokens_is_that_beside_the_teacher(
    tiny: Tiny, ask: Callable[..., Taught], tmp_path: Path
) -> None:
    """To the rounding of float16; and no teacher is there."""
    teacher = tiny.llama(0.0)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1.5)
    taught = ask(teacher, k=VOCABULARY)
    train(tiny, tmp_path / "beside", taught, Distill(), teacher)
    stored = train(tiny, tmp_path / "stored", taught, DistillTopK(k=VOCABULARY), None)
    assert stored._teacher == []
    losses = [
        [float(row["train/kl"]) for row in tiny.rows(tmp_path / name) if row.get("train/kl")]
        for name in ("beside", "stored")
    ]
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], abs=3e-4)


def test_a_run_from_the_cache_resumes_bit_for_bit(tiny: Tiny, ask: Callable[..., Taught], tmp_path: Path) -> None:
    taught, loss = ask(tiny.llama()), DistillTopK(k=K, mix=0.5)
    whole = train(tiny, tmp_path / "whole", taught, loss, None)

    class Failing(DistillTopK):
        calls = 0

        def __call__(self, *arguments: Any) -> Any:
            Failing.calls += 1
            if Failing.calls == 6:
                raise OSError("the machine has a fault")
            return super().__call__(*arguments)

    with pytest.raises(OSError, match="fault"):
        train(tiny, tmp_path / "parted", taught, Failing(k=K, mix=0.5), None)
    resumed = train(tiny, tmp_path / "parted", taught, loss, None, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert tiny.rows(tmp_path / "whole") == tiny.rows(tmp_path / "parted")
