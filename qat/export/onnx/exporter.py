"""ONNX: one graph that ONNX Runtime and other runtimes execute, with the checkpoint's integers as its weights.

The default graph has opset 21 and free batch and sequence:

- weights: ``DequantizeLinear`` of INT4 (2 to 4 bits) or INT8 (5 to 8) codes, with a scale a tensor, channel or block
  and zero points. The scale is written as float32, which holds every scale format, so the value is ``Grid.value()``;
- static INT8 input activations: ``QuantizeLinear`` and ``DequantizeLinear``;
- dynamic input activations: the operations of training, one by one;
- everything else computes in float32; no key-value cache: ``input_ids`` to ``logits``, or for masked and encoder models
  ``input_ids`` and ``attention_mask`` to ``logits`` or ``last_hidden_state``.

``static: true`` is for compilers of fixed shapes, see :mod:`qat.export.onnx.static`; not compiled by Groq's compiler.

Needs the extra ``onnx``. torch traces the whole model, in float32, so it must fit in memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from qat.errors import InputError

try:
    import onnx
    import onnxscript as _onnxscript  # noqa: F401  torch's exporter needs it
except ModuleNotFoundError as error:
    raise InputError(f"export=onnx needs the package {error.name}: pip install '.[onnx]' in qat's checkout") from error

from qat.checkpoint import QuantizedCheckpoint
from qat.export.base import Exporter, refuse_kv_cache
from qat.export.folder import CONFIG
from qat.export.onnx.file import is_narrow, narrow, save
from qat.export.onnx.modules import OPSET, integer_model
from qat.export.onnx.read import load, read_module
from qat.export.onnx.static import check_checkpoint, check_graph, static_graph
from qat.export.onnx.trace import trace
from qat.export.onnx.traceable import check_traceable
from qat.grid import group_count
from qat.quantized import Lazy, QuantizedWeight, ReadModule


@dataclass(frozen=True)
class OnnxExporter(Exporter):
    """``model.onnx`` with config and tokenizer beside it.

    Args:
        static: fixed shapes, opset 16, FP16 weights and int32 inputs, for compilers such as GroqFlow's.
        batch: rows of the input, for ``static``.
        sequence: tokens of a row, for ``static``.

    Raises:
        InputError: a size below 1.
    """

    streams: ClassVar[bool] = False

    static: bool = False
    batch: int = 1
    sequence: int = 128

    def __post_init__(self) -> None:
        for name, size in (("batch", self.batch), ("sequence", self.sequence)):
            if size < 1:
                raise InputError(f"export.onnx.{name} is {size}; it must be at least 1")

    def takes(self, checkpoint: QuantizedCheckpoint) -> None:
        """See the base class; ONNX holds every weight grid, and of static activations those of 8 bits.

        Costs a second or two for a model not seen before, see :mod:`qat.export.onnx.traceable`.
        """
        refuse_kv_cache(checkpoint, "onnx", "its graph has no key-value cache")
        if self.static:
            check_checkpoint(checkpoint, self.sequence)
            check_traceable(checkpoint.config, checkpoint.task, (self.batch, self.sequence))
            return
        for name, entry in checkpoint.weights.items():
            inputs = entry.scheme.input_activations
            if inputs is not None and not inputs.dynamic and inputs.num_bits != 8:
                raise InputError(
                    f"onnx holds static input activations of 8 bits, and those of {name} have {inputs.num_bits}; "
                    "set scheme.config_groups.<group>.input_activations.num_bits=8 (or .dynamic=true)"
                )
        check_traceable(checkpoint.config, checkpoint.task)

    def write_files(self, checkpoint: QuantizedCheckpoint, directory: Path) -> None:
        """Write ``config.json`` and the graph."""
        text = json.dumps(checkpoint.config, indent=2, sort_keys=True)
        (directory / CONFIG).write_text(text + "\n", encoding="utf-8")
        read = {name: replace(entry, numbers=entry.grid) for name, entry in checkpoint.weights.items()}
        checkpoint = replace(checkpoint, weights=read)  # the graph holds all of them: make each once
        if self.static:
            graph = static_graph(checkpoint, self.batch, self.sequence)
        else:
            graph = trace(integer_model(checkpoint), checkpoint.task, OPSET)
            narrow(graph, checkpoint)
        path = save(graph, checkpoint, directory, self.weight_bytes(checkpoint))
        if self.static:
            check_graph(onnx.load(path, load_external_data=False))

    def weight_bytes(self, checkpoint: QuantizedCheckpoint) -> int:
        """Bytes of all tensors as they will lie in the file."""
        rest = checkpoint.rest.values()
        numbers = sum(t.numel() * (2 if self.static or is_narrow(t) else 4) for t in rest)
        return numbers + sum(self._entry_bytes(entry) for entry in checkpoint.weights.values())

    def read(self, directory: Path) -> Mapping[str, ReadModule]:
        """Read every module with the onnx package; of a static graph its values, which are all that it has.

        Raises:
            InputError: a file that is missing or damaged.
            RunError: at access: onnx's reference implementation computes other values than the file's integers have.
        """
        graph, modules = load(Path(directory))
        return Lazy({name: partial(read_module, graph, name, about) for name, about in modules.items()})

    def _entry_bytes(self, entry: QuantizedWeight) -> int:
        numel = math.prod(entry.shape)
        if self.static:
            return numel * 2
        groups = math.prod(group_count(tuple(entry.shape), entry.args))
        numbers = (numel, 0 if entry.args.symmetric else groups)
        four_bits = entry.args.num_bits <= 4
        return sum((count + 1) // 2 if four_bits else count for count in numbers) + groups * 4
