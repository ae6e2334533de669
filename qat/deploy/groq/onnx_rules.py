"""The rules of a graph for GroqFlow, and the one that cannot be run here: Groq's compiler."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import TensorProto

from qat.deploy.checks import Check, Rule, rule
from qat.deploy.groq import sources
from qat.errors import InputError

GRAPH = "model.onnx"
OPSETS = range(13, 17)
PARAMETERS_A_CHIP = 50_000_000
_INTEGERS = (TensorProto.INT64, TensorProto.INT32)
_NARROW = (TensorProto.INT4, TensorProto.UINT4, TensorProto.INT8, TensorProto.UINT8)
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_SMALL = 4096
"""Numbers of a float32 constant at most: those of a computation, such as rotary frequencies, and no weights."""
_AGAIN = "write it with qat deploy target=groq target.route=onnx"


@dataclass(frozen=True)
class Subject:
    """A graph."""

    path: Path

    @cached_property
    def model(self) -> onnx.ModelProto:
        """Without the weights that lie outside the file."""
        try:
            return onnx.load(self.path, load_external_data=False)
        except Exception as error:  # protobuf and onnx raise classes of their own
            raise InputError(f"{self.path} cannot be read: {error}") from error

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """What a caller gives."""
        held = {tensor.name for tensor in self.model.graph.initializer}
        return [value for value in self.model.graph.input if value.name not in held]


@rule("groq.O1.checker", "Valid ONNX", "what onnx.checker takes, shapes included", sources.GROQFLOW)
def checker(rule: Rule, subject: Subject) -> Check:
    """By its path, so that weights outside the file are looked at as well."""
    try:
        onnx.checker.check_model(str(subject.path), full_check=True)
    except Exception as error:
        return rule.failed(str(error).strip().split("\n")[0][:300], _AGAIN)
    return rule.passed("onnx.checker found nothing")


@rule("groq.O2.opset", "Opset", f"{OPSETS.start} to {OPSETS.stop - 1}", sources.GROQFLOW)
def opset(rule: Rule, subject: Subject) -> Check:
    """Of the standard operators, and no others."""
    found = {entry.domain or "ai.onnx": entry.version for entry in subject.model.opset_import}
    text = ", ".join(f"{domain} {version}" for domain, version in found.items())
    fits = found.keys() == {"ai.onnx"} and found["ai.onnx"] in OPSETS
    return rule.unless("" if fits else text or "none", _AGAIN, text)


@rule("groq.O3.shapes", "Dimensions", "numbers of at least 1 everywhere", sources.GROQFLOW)
def shapes(rule: Rule, subject: Subject) -> Check:
    """Of inputs, outputs and every value between them."""
    try:
        graph = onnx.shape_inference.infer_shapes(subject.model, strict_mode=True, data_prop=True).graph
    except Exception as error:
        return rule.failed(f"shapes cannot be inferred: {str(error).strip().splitlines()[0][:200]}", _AGAIN)
    known = {value.name: value.type.tensor_type for value in (*graph.input, *graph.output, *graph.value_info)}
    names = [*known, *(name for node in graph.node for name in node.output if name and name not in known)]
    free = [name for name in names if not _is_static(known.get(name))]
    return rule.unless(", ".join(free[:3]), f"{_AGAIN} target.batch=1 target.sequence=<tokens>", f"{len(names)} values")


@rule("groq.O4.inputs", "Inputs", "integers; GroqFlow makes int64 to int32", sources.GROQFLOW)
def inputs(rule: Rule, subject: Subject) -> Check:
    """Token ids."""
    kinds = {value.name: value.type.tensor_type.elem_type for value in subject.inputs}
    text = ", ".join(f"{name} {_name(kind)}" for name, kind in kinds.items())
    wrong = not kinds or any(kind not in _INTEGERS for kind in kinds.values())
    return rule.unless((text or "none") if wrong else "", _AGAIN, text)


@rule("groq.O5.weights", "Weights", "FP16; no INT4 or INT8, no DequantizeLinear", sources.GROQFLOW)
def weights(rule: Rule, subject: Subject) -> Check:
    """The compiler picks its own precision, so integers would be expanded or refused."""
    graph = subject.model.graph
    count: Counter[str] = Counter()
    wrong = [node.op_type for node in graph.node if node.op_type in ("DequantizeLinear", "QuantizeLinear")][:1]
    for tensor in graph.initializer:
        numel = math.prod(tensor.dims)
        count[_name(tensor.data_type)] += numel
        large = tensor.data_type in _FLOATS and tensor.data_type != TensorProto.FLOAT16 and numel > _SMALL
        if large or (tensor.data_type in _NARROW and numel > 1):
            wrong.append(f"{tensor.name} {_name(tensor.data_type)}")
    found = ", ".join(f"{number:,} {kind}" for kind, number in sorted(count.items()))
    return rule.unless(", ".join(wrong[:3]), _AGAIN, found or "none")


@rule("groq.O6.size", "Size", f"about {PARAMETERS_A_CHIP // 10**6}M parameters a chip", sources.GROQFLOW)
def size(rule: Rule, subject: Subject) -> Check:
    """A larger model is spread over chips by the compiler."""
    total = sum(math.prod(t.dims) for t in subject.model.graph.initializer if t.data_type in _FLOATS)
    chips = max(1, math.ceil(total / PARAMETERS_A_CHIP))
    found = f"{total:,} parameters: about {chips} {'chip' if chips == 1 else 'chips'}"
    return rule.passed(found) if chips == 1 else rule.warned(found, "plan for that many chips, or take a smaller model")


@rule("groq.O7.runs", "Runs", "ONNX Runtime computes finite numbers", sources.POLICY)
def runs(rule: Rule, subject: Subject) -> Check:
    """On zeros, on the CPU."""
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors come as exceptions
        session = onnxruntime.InferenceSession(subject.path, options, providers=["CPUExecutionProvider"])
        given = {value.name: _zeros(value.type.tensor_type) for value in subject.inputs}
        outputs = session.run(None, given)
    except Exception as error:
        return rule.failed(str(error).strip().split("\n")[0][:300], _AGAIN)
    finite = all(np.isfinite(np.asarray(output, np.float32)).all() for output in outputs)
    return rule.unless(
        "" if finite else "numbers that are not finite", _AGAIN, f"onnxruntime {onnxruntime.__version__}"
    )


@rule("groq.O8.compiler", "Groq's compiler", "the compiler takes the graph", sources.GROQFLOW)
def compiler(rule: Rule, subject: Subject) -> Check:
    """Gated software."""
    return rule.not_run(
        "Groq's compiler was not run: it is not public", "compile it with GroqFlow where you have Groq's software"
    )


RULES: tuple[Callable[[Subject], Check], ...] = (checker, opset, shapes, inputs, weights, size, runs, compiler)


def _is_static(kind: onnx.TypeProto.Tensor | None) -> bool:
    return kind is not None and kind.HasField("shape") and all(d.dim_value >= 1 for d in kind.shape.dim)


def _zeros(kind: onnx.TypeProto.Tensor) -> NDArray[Any]:
    shape = [dimension.dim_value for dimension in kind.shape.dim]
    return np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))


def _name(kind: int) -> str:
    return str(TensorProto.DataType.Name(kind)).lower()
