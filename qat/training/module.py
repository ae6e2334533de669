"""The Lightning module: a float or prepared model, its loss and teacher, under a precision schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from qat.data.masking import Masking
from qat.errors import InputError
from qat.hosts import apply_state, hosts, quantizers, range_parameters
from qat.schedule.schedule import PrecisionSchedule
from qat.schedule.state import PrecisionState
from qat.training import optim, outputs
from qat.training.checks import check_parts
from qat.training.losses import Loss
from qat.training.losses.base import token_cross_entropy
from qat.training.optim import OptimizerConfig
from qat.training.outputs import Output
from qat.training.reconstruction import Reconstruction
from qat.training.trainable import Trainable

if TYPE_CHECKING:
    from qat.models.loaded import Task

_SEED_STRIDE = 2**31  # keeps the micro-batches of one seed apart from those of the next
_VALIDATION_SEED = -(2**31)  # keeps the masks of validation apart from those of training


class QATModule(pl.LightningModule):
    """Trains ``model`` in place.

    Everything that varies over the run (precision, rate, dropout, masks, batches) is a pure function of the
    seed and the step, so that a checkpoint of weights, ranges and moments is enough to resume bit for bit.

    Args:
        model: a transformers model, float or prepared.
        loss: what is minimized.
        optimizer: rates and decay.
        task: which head the model has.
        seed: of dropout and masks.
        schedule: precision a step; ``None`` trains the model as it is (a float model).
        teacher: float model for a loss that distills from one that runs, and for phases that train one block after
            another. It is neither trained nor saved.
        masking: how a ``masked_lm`` model's inputs are hidden.

    Raises:
        InputError: if the loss does not fit the task or the model, a teacher or masking is missing, a phase would
            train nothing, or the weights are not float32.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: OptimizerConfig,
        task: Task,
        seed: int,
        schedule: PrecisionSchedule | None = None,
        teacher: nn.Module | None = None,
        masking: Masking | None = None,
    ) -> None:
        super().__init__()
        check_parts(model, loss, task, schedule, teacher, masking)
        self.model = model
        self._forward: Callable[..., Any] = model.__call__
        self.loss = loss
        self.config = optimizer
        self.task: Task = task
        self.seed = seed
        self.schedule = schedule
        self.masking = masking
        self.trainable: Trainable | None = None
        self._distills = loss.teacher is not None and loss.top_k is None
        self._blocks: Reconstruction | None = None
        if teacher is not None and schedule is not None and schedule.reconstructs:
            self._blocks = Reconstruction(model, teacher)
        # In a list, so that it is no submodule: neither its parameters nor its state are this module's.
        self._teacher: list[nn.Module] = []
        if teacher is not None and (self._distills or self._blocks is not None):
            self._teacher.append(teacher.eval().requires_grad_(False))
        self.state: PrecisionState | None = None
        self.window: dict[str, Tensor] = {}
        self.validation_loss = float("nan")
        self._validation = torch.zeros(2, dtype=torch.float64)

    def compile_forward(self) -> None:
        """Compile the forward pass of training; the model itself stays as it was, for what comes after.

        Raises:
            InputError: if the loss records what compiled code does not show.
        """
        if self.loss.needs.attention_of is not None:
            raise InputError(
                "loss.relations looks into the attention, which compiled code hides; set trainer.compile=false"
            )
        self._forward = torch.compile(self.model.forward)

    def interpret_forward(self) -> None:
        """Undo :meth:`compile_forward`, since compiled code calls no hooks."""
        self._forward = self.model.__call__

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW and a rate that is a pure function of the step."""
        ranges = [parameter for _, parameter in range_parameters(self.model)]
        fused = self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed"
        optimizer = optim.build_optimizer(self.model, ranges, self.config, fused=fused)
        self.trainable = Trainable(self.model, optimizer)
        rate = optim.build_rate(optimizer, self.rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def rate_factor(self, step: int) -> float:
        """Share of the highest rate at optimizer step ``step``, with the schedule's own factor."""
        if self.schedule is None:
            return optim.rate_factor(self.config, step, self.trainer.max_steps)
        course = self.schedule.course(step, len(self._blocks.names) if self._blocks else 0)
        return optim.rate_factor(self.config, *course) * self.schedule.state_at(step).lr_scale

    def on_fit_start(self) -> None:
        """Bring the teacher to the device; transformers loads models in evaluation mode, so leave it."""
        self.model.train()
        for teacher in self._teacher:
            teacher.to(self.device)

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Derive randomness and precision from the step alone."""
        # Dropout draws from this seed: there is no generator state that a resume could lose.
        torch.manual_seed(self._batch_seed(batch_idx))
        if self.schedule is not None:
            step = self.trainer.global_step
            state, before = self.schedule.state_at(step), self.schedule.state_at(max(0, step - 1))
            self.apply_precision(state)
            assert self.trainable is not None, "Lightning configures the optimizer first"
            self.trainable.begin(state, fresh=self._active_block(state) != self._active_block(before))

    def apply_precision(self, state: PrecisionState) -> None:
        """Write ``state`` into the fake quantizers."""
        if state != self.state:
            apply_state(self.model, state)
            self.state = state

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """The loss of one micro-batch; its parts are summed up in ``window`` for logging."""
        if self.masking is not None:
            batch = self.masking.apply(batch, self._batch_seed(batch_idx))
        block = self._active_block(self.state)
        if block is None:
            parts = self.loss(self.task, batch, self._output(batch), self._teach(batch))
        else:
            assert self._blocks is not None, "a schedule that trains blocks alone has them"
            parts = {"loss": self._blocks.error(block, outputs.arguments(self.task, batch))}
        for name, value in parts.items():
            share = value.detach() / self.trainer.accumulate_grad_batches
            self.window[name] = self.window[name] + share if name in self.window else share
        return parts

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave to the update, and to the clipped norm, only what the step trains."""
        assert self.trainable is not None, "Lightning configures the optimizer first"
        self.trainable.before_update()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm of all gradients; Lightning's own refuses a fused optimizer in bf16-mixed too."""
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def teardown(self, stage: str) -> None:
        """Leave the device to what comes next, and the weights as they came; Lightning takes the model off it."""
        if self.trainable is not None:
            self.trainable.release()
        for teacher in self._teacher:
            teacher.cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another model or scheme, in one line instead of torch's list.

        Raises:
            InputError: naming the first tensor that differs.
        """
        own = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        saved = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
        for name in sorted(own.keys() | saved.keys()):
            if own.get(name) != saved.get(name):
                raise InputError(
                    f"the checkpoint is of another model or scheme: '{name}' has shape {saved.get(name)} there "
                    f"and {own.get(name)} here; resume a run with its own recipe"
                )

    def take_window(self) -> dict[str, Tensor]:
        """Mean loss and parts of the accumulation window that has just ended; the next one starts empty."""
        window, self.window = self.window, {}
        return window

    def rates(self) -> dict[str, float]:
        """``lr/weights`` and ``lr/ranges`` of the optimizer step just done."""
        factor = self.rate_factor(self.trainer.global_step - 1)
        groups = self.trainer.optimizers[0].param_groups
        return {f"lr/{group['kind']}": group["initial_lr"] * factor for group in groups}

    def precision(self) -> dict[str, float]:
        """``phase``, its place in the schedule, and ``bits`` of the narrowest weights (32: all are float)."""
        if self.schedule is None or self.state is None:
            return {}
        state = self.state
        quantizers = [host.weight_fake_quantizer for host in hosts(self.model).values()]
        widths = [quantizer.args.num_bits for quantizer in quantizers if quantizer is not None]
        on = bool(widths) and state.weights and state.mix > 0 and state.blocks > 0
        bits = max(min(widths), state.weight_bits or 0) if on else 32
        return {"phase": list(self.schedule.phases).index(state.phase), "bits": bits}

    @property
    def at_scheme(self) -> bool:
        """Whether the precision is what will be frozen: the scheme's bits, all on, unmixed. A float model's is."""
        return all(quantizer.final for quantizer in quantizers(self.model).values())

    def on_validation_start(self) -> None:
        """Validate at the precision of the last step, without letting observers see validation data."""
        self._validation.zero_()
        if self.state is not None:
            self.apply_precision(replace(self.state, observe=False))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add up the loss of the validation blocks and what it is a mean over."""
        if self.masking is not None:  # the same masks at every validation, so that losses compare
            batch = self.masking.apply(batch, _VALIDATION_SEED + batch_idx)
        if self.task == "encoder":
            output = self._output(batch)
            count = torch.tensor(output.head.shape[0])
            total = self.loss(self.task, batch, output, self._teach(batch))["loss"] * count
        else:
            logits = outputs.run(self._forward, self.model, outputs.arguments(self.task, batch), self.task).head
            total, count = token_cross_entropy(self.task, batch["labels"], logits)
        self._validation += torch.stack([total.double(), count.double()]).cpu()

    def on_validation_epoch_end(self) -> None:
        """Take the exact mean: over tokens, in nats; for an encoder over blocks, of the loss itself."""
        total, count = self._validation.tolist()
        self.validation_loss = total / count if count else float("nan")

    def _output(self, batch: dict[str, Tensor]) -> Output:
        inputs = outputs.arguments(self.task, batch)
        return outputs.run(self._forward, self.model, inputs, self.task, self.loss.needs)

    def _teach(self, batch: dict[str, Tensor]) -> Output | None:
        if not self._distills:
            return None
        (teacher,) = self._teacher
        # Not inference_mode: autograd keeps the teacher's tensor to differentiate the divergence.
        with torch.no_grad():
            inputs = outputs.arguments(self.task, batch)
            return outputs.run(teacher.__call__, teacher, inputs, self.task, self.loss.needs)

    def _active_block(self, state: PrecisionState | None) -> int | None:
        """The block that is trained alone in ``state``."""
        return None if state is None or self._blocks is None else state.active_block(len(self._blocks.names))

    def _batch_seed(self, batch_idx: int) -> int:
        """A seed of its own for each micro-batch; ``batch_idx`` counts from the start of the run."""
        return (self.seed * _SEED_STRIDE + batch_idx) % 2**63
