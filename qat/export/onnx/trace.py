"""Trace a model to an ONNX graph with torch's exporter, without its chatter."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants
from torch import Tensor, nn
from torch.export import Dim

from qat.errors import RunError
from qat.export.onnx.names import ATTENTION_MASK, INPUT_IDS

_PREFIX = "model."


class Graph(nn.Module):
    """A transformers model as a function of tensors: ``input_ids`` (and ``attention_mask``, unless it is causal) to
    ``logits`` or ``last_hidden_state`` and, where the encoder has one, ``pooler_output``.

    Args:
        model: its cache is turned off.
        task: decides inputs and outputs.
    """

    def __init__(self, model: nn.Module, task: str) -> None:
        super().__init__()
        self.model = model
        self.inputs = [INPUT_IDS] if task == "causal_lm" else [INPUT_IDS, ATTENTION_MASK]
        self.outputs = ["last_hidden_state"] if task == "encoder" else ["logits"]
        if task == "encoder" and getattr(model, "pooler", None) is not None:
            self.outputs.append("pooler_output")
        model.config.use_cache = False  # type: ignore[union-attr]
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """The tensors ``outputs`` of what the model returns."""
        masks = {} if attention_mask is None else {ATTENTION_MASK: attention_mask}
        result = self.model(input_ids=input_ids, **masks)
        return tuple(getattr(result, name) for name in self.outputs)

    def example(self, static: tuple[int, int] | None, device: str = "cpu") -> tuple[Tensor, ...]:
        """Inputs to trace with: int32 of the sizes ``static``, or int64 of sizes that stand for any."""
        sizes = static or (2, 8)  # a dimension of 1 would be taken for a constant
        ids = torch.zeros(sizes, dtype=torch.int64 if static is None else torch.int32, device=device)
        return (ids, *(torch.ones_like(ids) for _ in self.inputs[1:]))

    def free(self, static: tuple[int, int] | None) -> dict[str, dict[int, Dim]] | None:
        """The free dimensions of the inputs, as torch.export wants them."""
        both = {0: Dim("batch"), 1: Dim("sequence")}
        return None if static else dict.fromkeys(self.inputs, both)


@torch.no_grad()
def trace(
    model: nn.Module,
    task: str,
    opset: int,
    static: tuple[int, int] | None = None,
    translations: dict[Callable[..., Any], Callable[..., Any]] | None = None,
) -> ir.Model:
    """Trace ``model`` as :class:`Graph` calls it. Initializers have the names of the model's parameters and buffers; a
    shared one has its first name.

    Args:
        model: a transformers model.
        task: decides inputs and outputs.
        opset: of the graph, at least 18, which is the exporter's own.
        static: batch and sequence of a graph of fixed shapes with int32 inputs; None: int64, both are free.
        translations: torch operator -> onnxscript function to write it with.

    Raises:
        RunError: torch cannot trace the model, with its reason.
    """
    graph = Graph(model, task)
    try:
        with quiet():
            program = torch.onnx.export(
                graph,
                graph.example(static),
                dynamo=True,
                optimize=False,  # it would merge equal tensors and fold small weights to floats
                opset_version=opset,
                input_names=graph.inputs,
                output_names=graph.outputs,
                dynamic_shapes=graph.free(static),
                custom_translation_table=translations,
            )
            assert program is not None
            fold_constants(program.model, should_fold=_keep_parameters)
            RemoveUnusedNodesPass()(program.model)
            ClearMetadataAndDocStringPass()(program.model)  # a stack trace a node: more bytes than small weights
    except Exception as error:  # the exporter's own types and those of everything it traces
        raise RunError(f"torch cannot trace {type(model).__name__} to ONNX: {cause(error)}") from error
    first_names = _first_names(model)
    for value in list(program.model.graph.initializers.values()):
        name = str(value.name).removeprefix(_PREFIX)
        value.name = first_names.get(name, name)
    return program.model


def cause(error: BaseException) -> str:
    """The first line of the error that began it all; those around it only say at which step it happened."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0]


def _first_names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer -> its first one."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def _keep_parameters(node: ir.Node) -> bool | None:
    """Whether to fold a node: not if it reads a parameter, else as the optimizer sees fit."""
    return False if any(value is not None and value.is_initializer() for value in node.inputs) else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back the exporter's prints, warnings and logs; errors are exceptions and pass."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
