"""AutoRound: rounding and clipping learned by signed gradient descent, block by block; the library itself.

Cheng et al., arXiv:2309.05516. The library (``auto-round``) is not among our requirements: it runs in an environment of
its own (``scripts/engines.sh auto_round``), on a copy of the float model, and what it finds is carried over.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchao.quantization.qat import FakeQuantizedLinear

from qat import grid
from qat.checkpoint import model_ties
from qat.environments import ON_THE_CPU, ForeignPython
from qat.errors import InputError, RunError
from qat.fake_quant.lsq import LSQFakeQuantizer
from qat.hosts import Host, block_index, hosts
from qat.logged import LoggedProcess
from qat.models.conv1d import stored_transposed
from qat.observers import Observer
from qat.ptq.base import PTQ
from qat.ptq.store import BlockStore
from qat.rest import config_of, unquantized

PYTHON = ForeignPython("auto_round", "auto_round")
_SCRIPT = Path(__file__).with_name("workers") / "auto_round_worker.py"


@dataclass(frozen=True)
class AutoRound(PTQ):
    """Quantizes the linear layers of the blocks with AutoRound, on the CPU, on the same calibration tokens and grid.

    AutoRound tunes with scales in the dtype in which ours are stored. Its values become the weights and its scales the
    ranges, so freezing gives the very codes that it chose. Only where ``scale_format`` keeps fewer bits than its dtype
    does (``lossless_*``, ``significand_*``) are the scales rounded, and the weights to nearest after that; how many
    codes this changes is printed. Symmetric grids are AutoRound's ``int_sym_gptq``: its default for them has negative
    scales, which neither our ranges nor most formats hold. Activations are float while it tunes.

    Args:
        observer: sets the ranges of weights outside the blocks (embedding, head).
        iters: steps a block.
        batch_size: rows of calibration tokens a step.
        lr: rate of the rounding and the ranges; None: ``1 / iters``, the library's default.
        seed: of the batches.

    Raises:
        InputError: ``iters`` or ``batch_size`` below 1.
    """

    observer: Observer
    iters: int = 200
    batch_size: int = 8
    lr: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("iters", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"ptq.{name} is {getattr(self, name)}; allowed is 1 or more")

    @torch.no_grad()
    def run(self, model: nn.Module, batches: Iterable[dict[str, Any]], store: BlockStore | None = None) -> None:
        """See :meth:`PTQ.run`.

        Raises:
            InputError: AutoRound is not installed, a grid that it does not have, a model that it cannot be given, or
                no batches.
            RunError: it failed, or its result is not on the grid.
        """
        if (absent := PYTHON.missing()) is not None:
            raise InputError(f"ptq=auto_round needs the AutoRound library, which is {absent}")
        inside = {name: host for name, host in hosts(model).items() if block_index(name) is not None}
        layers = {name: _layer(name, host) for name, host in inside.items()}
        if not layers:
            raise InputError("ptq=auto_round works on the linear layers of transformer blocks, and none is quantized")
        job = {
            "layers": layers,
            "scale_dtype": str(next(iter(inside.values())).weight_fake_quantizer.scale_format.dtype).partition(".")[2],
            "options": {"iters": self.iters, "batch_size": self.batch_size, "lr": self.lr, "seed": self.seed},
        }
        found = _ask(model, _tokens(batches), job)
        changed = sum(_carry_over(name, host, found) for name, host in inside.items())
        for name, host in hosts(model).items():
            if name not in inside:
                host.weight_fake_quantizer.init_range(self.observer, host.weight)
        if changed:
            share = changed / sum(host.weight.numel() for host in inside.values())
            Console(stderr=True).print(
                f"AutoRound's scales were rounded to the scheme's scale_format, which changed {share:.2%} of its codes",
                highlight=False,
                soft_wrap=True,
            )


def _layer(name: str, host: Host) -> dict[str, Any]:
    """The grid of a layer as AutoRound calls it.

    Raises:
        InputError: one that it does not have, or that has no ranges to set.
    """
    quantizer = host.weight_fake_quantizer
    args: QuantizationArgs = quantizer.args
    problem = ""
    if not isinstance(host, FakeQuantizedLinear):
        problem = "it is no linear layer; leave it float"
    elif not isinstance(quantizer, LSQFakeQuantizer):
        problem = f"its {type(quantizer).__name__} has no ranges; take fake_quantizer=lsq"
    elif quantizer.narrow_range:
        problem = "AutoRound has no narrow range; take another algorithm, such as ptq=gptq"
    elif args.strategy not in (QuantizationStrategy.CHANNEL, QuantizationStrategy.GROUP):
        problem = f"AutoRound has no strategy '{args.strategy}' of integers; allowed are channel, group"
    if problem:
        raise InputError(f"ptq=auto_round cannot quantize {name}: {problem}")
    return {
        "bits": args.num_bits,
        "group_size": args.group_size or -1,
        "sym": args.symmetric,
        "data_type": "int_sym_gptq" if args.symmetric else "int_asym",
    }


def _tokens(batches: Iterable[dict[str, Any]]) -> Tensor:
    """The calibration tokens, int64 [rows, length], on the CPU.

    Raises:
        InputError: there are none, or batches of different lengths.
    """
    parts = [batch["input_ids"].cpu() for batch in batches]
    if not parts:
        raise InputError("ptq=auto_round needs data; set calibration_batches to 1 or more")
    if len(lengths := {part.shape[1] for part in parts}) > 1:
        raise InputError(f"ptq=auto_round needs calibration texts of one length, these have {sorted(lengths)} tokens")
    return torch.cat(parts)


def _ask(model: nn.Module, tokens: Tensor, job: dict[str, Any]) -> dict[str, Tensor]:
    """What AutoRound finds.

    Raises:
        InputError: a model that cannot be written.
        RunError: it failed, with its last words.
    """
    with tempfile.TemporaryDirectory(prefix="qat-auto-round-") as place:
        folder = Path(place)
        _write_model(model, folder / "model")
        np.save(folder / "tokens.npy", tokens.numpy())
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        worker = LoggedProcess("AutoRound", PYTHON.command(str(_SCRIPT), place), ON_THE_CPU | threads)
        try:
            worker.wait()
            if not (folder / "result.safetensors").is_file():
                raise worker.ended()
        finally:
            worker.close()
        return load_file(folder / "result.safetensors")


def _write_model(model: nn.Module, folder: Path) -> None:
    """The float weights of a prepared model as a folder that plain transformers loads.

    Raises:
        InputError: a model of another library, or one that transformers stores otherwise.
    """
    config = config_of(model, torch.float32)
    if not config:
        raise InputError(f"ptq=auto_round takes transformers' models, not a {type(model).__name__}")
    if conv1d := stored_transposed(model):
        raise InputError(f"ptq=auto_round cannot take {conv1d[0]}, which transformers builds as Conv1D; take ptq=gptq")
    folder.mkdir()
    prepared, followers = hosts(model), {name for group in model_ties(model) for name in group[1:]}
    state = unquantized(model, set(prepared), followers, torch.float32)
    for name, host in prepared.items():
        if (full := f"{name}.weight") not in followers:
            state[full] = host.weight.detach().float().cpu().contiguous()
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _carry_over(name: str, host: Host, found: dict[str, Tensor]) -> int:
    """Put AutoRound's values and ranges into ``host``; the number of codes that differ from its own.

    Raises:
        RunError: its result is not on the grid that it was asked for.
    """
    quantizer = host.weight_fake_quantizer
    values, scale, zero_point = (found[f"{name}.{part}"] for part in ("weight", "scale", "zero_point"))
    low, high = grid.qrange(quantizer.args.num_bits, quantizer.narrow_range)
    signed = zero_point + low  # AutoRound's codes begin at 0
    codes = torch.round(grid.to_groups(values, quantizer.args) / scale.unsqueeze(-1)) + signed.unsqueeze(-1)
    wrong_zero = (signed != 0).any() if quantizer.args.symmetric else ((signed < low) | (signed > high)).any()
    if not bool((scale > 0).all()) or bool(wrong_zero) or codes.amin() < low or codes.amax() > high:
        raise RunError(
            f"AutoRound's result for {name} is not on the grid that it was asked for; use its locked version"
        )
    rounded = quantizer.scale_format.round(scale)
    quantizer.set_range((low - signed) * rounded, (high - signed) * rounded)
    host.weight.copy_(values)
    ours = quantizer.grid(host.weight)
    host.weight.copy_(ours.value())
    changed = int((ours.codes.reshape(codes.shape) != codes.to(ours.codes)).sum())
    if changed and torch.equal(rounded, scale):
        raise RunError(f"{changed} of AutoRound's codes for {name} cannot be carried over; use its locked version")
    return changed
