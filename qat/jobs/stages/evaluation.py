"""The stage that scores: every model on the same blocks of the test split, against the same float base."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from qat.checkpoint import QuantizedCheckpoint
from qat.config.schema import RunConfig
from qat.data.document import Split
from qat.engines.base import Engine
from qat.evaluate.forward import Forward
from qat.evaluate.generate import check_prompts, generate
from qat.evaluate.score import Blocks, Score, score
from qat.jobs.stages.console import begin
from qat.jobs.stages.inputs import Inputs
from qat.models.build import torch_dtype
from qat.report.metrics import QATQuality, Quality, Sample
from qat.report.recovery import Reference, recovery, reference
from qat.restore import restore


class Evaluation:
    """Scores models of one run.

    Made before anything slow begins, since it refuses what could not be scored.

    Args:
        run: the checked config.
        inputs: the base, which is the reference of ``top1_agreement`` and ``kl``, and the text.
        split: of the text; test for what is reported, validation for what is chosen by.

    Raises:
        InputError: if the split or a prompt cannot be used.
    """

    def __init__(self, run: RunConfig, inputs: Inputs, split: Split = "test") -> None:
        self.options = run.evaluate
        self.seed = run.seed
        self.inputs = inputs
        self.samples: dict[str, list[str]] = {}
        blocks = inputs.tokens(split)
        count = len(blocks) if self.options.blocks is None else min(self.options.blocks, len(blocks))
        self.blocks: Blocks = Subset(blocks, range(count))
        if self.options.generate:
            check_prompts(
                inputs.loaded.model,
                inputs.loaded.tokenizer,  # type: ignore[arg-type]
                self.options.prompts,
                self.options.max_new_tokens,
            )

    def score(self, model: nn.Module | Forward, reference: nn.Module | None) -> Score:
        """Score one model, or an engine's function from tokens to logits."""
        with _placed(self.inputs.device, model, reference):
            return score(
                model,
                self.blocks,
                self.options.batch_size,
                self.inputs.loaded.task,
                reference,
                self.inputs.masking(),
                self.seed,
            )

    def engine_loss(self, engine: Engine) -> float | None:
        """Nats a token of what a real engine has loaded, on the same tokens; None of an encoder."""
        task = self.inputs.loaded.task
        if task == "causal_lm":
            return engine.loss(self.blocks, self.options.batch_size)
        return self.score(engine.logits, self.inputs.loaded.model if task == "encoder" else None).loss

    def float(self, name: str, model: nn.Module) -> Quality:
        """Quality of a float model; ``name`` is its key in the samples."""
        base = self.inputs.loaded.model
        # An encoder has no loss of its own: it is compared with the base, also when it is the base.
        compared = base if model is not base or self.inputs.loaded.task == "encoder" else None
        numbers = sum(parameter.numel() for parameter in model.parameters())
        size = numbers * torch_dtype(self.inputs.loaded.file_dtype).itemsize
        return Quality(**self._measured(name, model, compared), bytes=size)

    def quantized(self, name: str, checkpoint: QuantizedCheckpoint, of: Reference | None = None) -> Quality:
        """Quality of a quantized checkpoint, computed with its own integers; ``of``: what PTQ made it from."""
        measured = self._measured(name, restore(checkpoint), self.inputs.loaded.model)
        return Quality(**measured, bytes=checkpoint.nbytes, of=of)

    def sample_table(self) -> list[Sample]:
        """The continuations so far, prompt by prompt."""
        return [
            Sample(prompt=prompt, continuations={name: texts[index] for name, texts in self.samples.items()})
            for index, prompt in enumerate(self.options.prompts)
            if self.samples
        ]

    def _measured(self, name: str, model: nn.Module, reference: nn.Module | None) -> dict[str, Any]:
        begin(f"scoring {name}")
        if self.options.generate:
            with _placed(self.inputs.device, model):
                self.samples[name] = generate(
                    model,
                    self.inputs.loaded.tokenizer,  # type: ignore[arg-type]
                    self.options.prompts,
                    self.options.max_new_tokens,
                )
        values = asdict(self.score(model, reference))
        del values["tokens"]
        return values


def float_reference(base: Quality, tuned: Quality | None) -> Reference:
    """Which float model PTQ starts from, and the recovery is measured against."""
    if base.loss is None:
        return "base" if tuned is None else "tuned_float"
    return reference(base.loss, None if tuned is None else tuned.loss)


def with_recovery(quality: Quality, base: Quality, tuned: Quality | None, ptq: dict[str, Quality]) -> QATQuality:
    """The trained model's quality with its recovery against every PTQ method."""
    against = float_reference(base, tuned)
    float_model = tuned if tuned is not None and against == "tuned_float" else base
    result = QATQuality(**quality.model_dump(), recovery_against=against)
    for method, other in ptq.items():
        if other.loss is None or quality.loss is None or float_model.loss is None:
            result.recovery[method] = None
            result.recovery_undefined[method] = "an encoder has no loss in nats"
            continue
        found = recovery(other.loss, quality.loss, float_model.loss)
        result.recovery[method] = found.value
        if found.value is None:
            result.recovery_undefined[method] = found.reason
    return result


@contextmanager
def _placed(device: torch.device, *models: nn.Module | Forward | None) -> Iterator[None]:
    """Models on ``device`` inside, and where they were afterwards."""
    modules = [model for model in models if isinstance(model, nn.Module)]
    before = [next(module.parameters()).device for module in modules]
    try:
        for module in modules:
            module.to(device)
        yield
    finally:
        for module, place in zip(modules, before, strict=True):
            module.to(place)
