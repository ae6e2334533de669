"""A model of two blocks, random tokens, and a run of a few steps on them.

Also run as a script by the tests that kill a process: ``runpy.run_path`` gives it these functions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import LlamaForCausalLM

from qat.prepare import prepare
from qat.schedule import PrecisionSchedule
from qat.schedule.phases.block_reconstruction import BlockReconstruction
from qat.schedule.phases.dampen import Dampen
from qat.schedule.phases.fake_quant import FakeQuant
from qat.schedule.phases.float_warmup import FloatWarmup
from qat.schedule.phases.freeze_ranges import FreezeRanges
from qat.schedule.phases.progressive_bits import ProgressiveBits
from qat.schedule.phases.ranges_only import RangesOnly
from qat.scheme import preset
from qat.training.datamodule import QATDataModule
from qat.training.losses import CrossEntropy, Distill, Loss
from qat.training.module import QATModule
from qat.training.optim import OptimizerConfig
from qat.training.trainer import FitResult, TrainerConfig, fit

VOCABULARY, BLOCK = 64, 16


class RandomBlocks(Dataset[dict[str, Tensor]]):
    """``count`` blocks of random tokens."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(VOCABULARY, (count, BLOCK), generator=generator)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index].clone()}


def tiny_llama(dropout: float = 0.1) -> LlamaForCausalLM:
    """Two blocks, hidden 32, tied embeddings, with dropout, which a resume must repeat too."""
    shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64}
    return support.random_llama(**shape, attention_dropout=dropout).train()


def quantized_module(steps: int) -> QATModule:
    """A prepared model under a schedule with a jump of the bits at steps 3, 8, 12 and 16 (of 20)."""
    model = tiny_llama()
    prepare(model, preset("w4a8_channel"))
    phases = {
        "warmup": FloatWarmup(steps=3),
        "bits": ProgressiveBits(bits=(8, 6, 4)),
        "end": FreezeRanges(steps=4),
    }
    schedule = PrecisionSchedule(phases, steps)
    return QATModule(model, Distill(mix=0.5), OptimizerConfig(), "causal_lm", 0, schedule, tiny_llama(0.0))


def blockwise_module(steps: int, loss: Loss | None = None) -> QATModule:
    """A run as EfficientQAT's between two others: of 20 steps, 3 to 10 train one block each four, 11 to 14 ranges."""
    model = tiny_llama()
    prepare(model, preset("w2a16_g32_asym"))
    phases = {
        "first": FakeQuant(steps=3),
        "blocks": BlockReconstruction(steps=8),
        "ranges": RangesOnly(steps=4, rate=0.5),
        "end": Dampen(),
    }
    schedule = PrecisionSchedule(phases, steps)
    return QATModule(model, loss or CrossEntropy(), OptimizerConfig(), "causal_lm", 0, schedule, tiny_llama(0.0))


def float_module(loss: Loss | None = None, model: nn.Module | None = None, **optimizer: Any) -> QATModule:
    """A model without quantizers."""
    config = OptimizerConfig(**optimizer)
    return QATModule(model or tiny_llama(), loss or CrossEntropy(), config, "causal_lm", 0)


def run(module: QATModule, folder: Path, resume: bool = False, loggers: Any = (), **options: Any) -> FitResult:
    """20 steps of 2 micro-batches of 2 blocks: an epoch of 13 blocks ends in the middle of a window."""
    defaults = {"max_steps": 20, "batch_size": 2, "accumulate": 2, "block_size": BLOCK, "val_every": 6}
    defaults |= {"save_every": 4, "log_every": 1, "quant_error_every": 7, "num_threads": 1, "device": "cpu"}
    config = TrainerConfig(**{**defaults, **options})
    validation = RandomBlocks(5, seed=1) if config.val_every else None
    data = QATDataModule(RandomBlocks(13, seed=0), validation, config.batch_size, 0, config.val_blocks)
    return fit(module, data, config, loggers, folder, resume)


class Tiny:
    """The functions above, for tests, which cannot import this file."""

    def __init__(self) -> None:
        self.blocks: Callable[..., RandomBlocks] = RandomBlocks
        self.llama = tiny_llama
        self.quantized = quantized_module
        self.blockwise = blockwise_module
        self.float = float_module
        self.run = run
        self.rows = support.rows
        self.checkpoint = support.checkpoint


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
