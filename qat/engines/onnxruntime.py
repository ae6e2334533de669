"""ONNX Runtime on the CPU.

It fuses DequantizeLinear and MatMul to MatMulNBits (weight-only and dynamic activations, blocks and channels) and
QuantizeLinear and both DequantizeLinear to MatMulIntegerToFloat (static activations). By its own default MatMulNBits
rounds activations to INT8 (``accuracy_level`` 4), which is not what was trained: here it is 1, float32.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from qat.checkpoint import GENERATION
from qat.engines.base import Engine, NotAvailable, not_loaded
from qat.errors import InputError
from qat.export.folder import read_config
from qat.export.onnx.names import ATTENTION_MASK, INPUT_IDS, METADATA, MODEL
from qat.models.build import reason
from qat.rest import stop_tokens

if TYPE_CHECKING:  # an extra: this file can be imported without it
    import onnxruntime as ort  # type: ignore[import-untyped]

Optimization = Literal["disable", "basic", "extended", "all"]

_LEVELS = {"disable": "DISABLE_ALL", "basic": "ENABLE_BASIC", "extended": "ENABLE_EXTENDED", "all": "ENABLE_ALL"}
_NUMPY = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_FLOAT32_LEVEL = 1


class OnnxRuntimeEngine(Engine):
    """onnxruntime's CPUExecutionProvider.

    Args:
        optimization: how far the graph is optimized; ``all`` is ONNX Runtime's default.
        threads: of one operator; 0: as many as there are cores.
        accuracy_level: how MatMul with blocked weights computes: 1 in float32, 2 in float16, 3 in bfloat16, 4 on
            activations rounded to INT8.
    """

    formats = frozenset({"onnx"})

    def __init__(
        self, optimization: Optimization = "all", threads: int = 0, accuracy_level: Literal[1, 2, 3, 4] = 1
    ) -> None:
        self.optimization = optimization
        self.threads = threads
        self.accuracy_level = accuracy_level
        self._session: ort.InferenceSession | None = None

    def missing(self) -> str | None:
        """See the base class."""
        if importlib.util.find_spec("onnxruntime") is None:
            return "the package onnxruntime is not installed: pip install '.[onnx]' in qat's checkout"
        return None

    @property
    def description(self) -> str:
        """See the base class."""
        import onnxruntime as ort

        return (
            f"onnxruntime {ort.__version__} (CPUExecutionProvider, optimizations {self.optimization}, "
            f"accuracy level {self.accuracy_level})"
        )

    @property
    def session(self) -> ort.InferenceSession:
        """The loaded model.

        Raises:
            InputError: nothing is loaded yet.
        """
        if self._session is None:
            raise not_loaded()
        return self._session

    def load(self, directory: Path, device: torch.device | str = "cpu") -> None:
        """See the base class; ``device`` does not matter, this is the CPU's engine."""
        if (absent := self.missing()) is not None:
            raise NotAvailable(absent)
        import onnxruntime as ort

        directory = Path(directory)
        read_config(directory)
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{_LEVELS[self.optimization]}")
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", str(self.accuracy_level))
        try:
            session = ort.InferenceSession(directory / MODEL, options, providers=["CPUExecutionProvider"])
            self.task = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])["task"]
        except KeyError:
            raise InputError(f"{directory / MODEL} was not written by qat: it has no '{METADATA}' metadata") from None
        except Exception as error:  # its exceptions share no base class of their own
            raise InputError(f"onnxruntime cannot load {directory}: {reason(error)}") from error
        in_float32 = session.get_outputs()[0].type == "tensor(float)" and self.accuracy_level == _FLOAT32_LEVEL
        self.dtype = "float32" if in_float32 else "float16"
        self.directory, self._session = directory, session

    def logits(self, tokens: Tensor) -> Tensor:
        """See the base class; a graph of fixed shapes is given padded rows, whose padding is cut off again."""
        first = self.session.get_inputs()[0]
        rows, columns = tokens.shape
        batch, sequence = (
            fixed if isinstance(fixed, int) else size for fixed, size in zip(first.shape, tokens.shape, strict=True)
        )
        if columns > sequence:
            raise InputError(f"the graph takes {sequence} tokens, and there are {columns}; export a longer sequence")
        ids = np.zeros((-(-rows // batch) * batch, sequence), dtype=_NUMPY[first.type])
        ids[:rows, :columns] = tokens.cpu().numpy()
        mask = np.zeros_like(ids)
        mask[:, :columns] = 1
        feeds = {INPUT_IDS: ids, ATTENTION_MASK: mask}
        names = [node.name for node in self.session.get_inputs()]
        out = [
            self.session.run(None, {name: feeds[name][row : row + batch] for name in names})[0]
            for row in range(0, len(ids), batch)
        ]
        return torch.from_numpy(np.concatenate(out)[:rows, :columns]).float()

    def continue_greedily(self, prompt: list[int], new_tokens: int) -> list[int]:
        """See the base class: the whole sequence runs again for every token, since the graph has no cache."""
        self.need_causal_lm("generate")
        ids, stops = list(prompt), _stop_tokens(self.directory)
        for _ in range(new_tokens):
            ids.append(int(self.logits(torch.tensor([ids]))[0, -1].argmax()))
            if ids[-1] in stops:
                break
        return ids[len(prompt) :]


def _stop_tokens(directory: Path) -> list[int]:
    path = directory / GENERATION
    return stop_tokens(read_config(directory), json.loads(path.read_text()) if path.is_file() else None)
