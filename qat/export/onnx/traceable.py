"""Whether torch can trace a model, found out before anything slow begins: on a few layers, without numbers.

``torch.export``, the first step of the trace, runs the model's own code. Here it runs on the meta device, on the
layers up to the first of each kind, since the others run the same code: one layer of a Llama or Mixtral. Measured on
one busy x86-64 core: 1.5 s of its time for a Llama of 1B parameters (2.2 s the first time), no memory.

Found: code that cannot be traced, and operators of other libraries than torch, which ONNX does not know. Not found: an
operator of torch itself that its exporter cannot write, and batch or sequence that the code fixes to one number. They
show in the whole trace only, which takes three times as long for one layer.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, cast

import torch
from torch import fx, nn
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram, default_decompositions, export

from qat.errors import InputError
from qat.export.onnx.trace import Graph, cause, quiet
from qat.models.build import config_from_dict, on_meta
from qat.models.loaded import Task

_OWN = {"aten", "prims"}


def check_traceable(config: dict[str, Any], task: str, static: tuple[int, int] | None = None) -> None:
    """Return if ``torch.export`` traces the model of ``config``; a config is looked at once a process.

    Args:
        config: the content of ``config.json``.
        task: which head.
        static: batch and sequence of a graph of fixed shapes; None: both are free.

    Raises:
        InputError: it cannot be traced, or has operators that ONNX cannot hold, with the reason.
    """
    _check(json.dumps(config, sort_keys=True), task, static)


@cache
@torch.no_grad()
def _check(config: str, task: str, static: tuple[int, int] | None) -> None:
    model = on_meta(config_from_dict(json.loads(config)), cast(Task, task))
    keep_first_of_each_kind(model)
    name = type(model).__name__
    try:
        program = _export(Graph(model, task), static)
    except Exception as error:  # torch.export's own types and those of the model's code
        raise InputError(f"torch cannot trace {name} to ONNX: {cause(error)}") from error
    if foreign := foreign_operators(program.graph_module):
        raise InputError(f"ONNX cannot hold {name}: torch cannot write its operator {foreign[0]}")


def _export(graph: Graph, static: tuple[int, int] | None) -> ExportedProgram:
    """Both ways that torch's ONNX exporter tries; a dimension that must be bounded or fixed is no error here."""
    either = {0: Dim.AUTO, 1: Dim.AUTO}
    free = None if static else dict.fromkeys(graph.inputs, either)
    with quiet():
        try:
            return export(graph, graph.example(static, "meta"), dynamic_shapes=free, strict=False)
        except Exception as first:
            try:
                return export(graph, graph.example(static, "meta"), dynamic_shapes=free, strict=True)
            except Exception:
                raise first from None


def keep_first_of_each_kind(model: nn.Module) -> None:
    """Cut the layers of a model after the last that is the first of its kind.

    Two layers are of one kind if they have the same modules and the config gives them the same ``layer_types``. A
    model whose layers are no list of ``num_hidden_layers`` modules is left whole.
    """
    config: Any = model.config
    depth = getattr(config, "num_hidden_layers", None)
    lists = ((name, part) for name, part in model.named_modules() if isinstance(part, nn.ModuleList))
    for name, layers in lists:
        if len(layers) == depth:
            types = getattr(config, "layer_types", None) or [""] * depth
            kinds = [(str(layer), kind) for layer, kind in zip(layers, types, strict=True)]
            config.num_hidden_layers = 1 + max(kinds.index(kind) for kind in set(kinds))
            model.set_submodule(name, layers[: config.num_hidden_layers])
            return


def foreign_operators(module: fx.GraphModule) -> list[str]:
    """Names of the operators that are not torch's own and are not made of such."""
    graphs = [part.graph for part in module.modules() if isinstance(part, fx.GraphModule)]
    used = {node.target for graph in graphs for node in graph.nodes if isinstance(node.target, OpOverload)}
    foreign = {operator for operator in used if operator.namespace not in _OWN}
    return sorted(str(operator) for operator in foreign if operator not in default_decompositions())
