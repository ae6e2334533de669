"""Load a torchao export: transformers makes the model, torchao's own tensors compute."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torchao.utils import TorchAOBaseTensor
from transformers import PreTrainedModel

from qat.engines.transformers import TransformersEngine
from qat.errors import InputError
from qat.export.folder import CONFIG_KEY
from qat.models.build import torch_dtype


class TorchaoEngine(TransformersEngine):
    """transformers with torchao, on CPU or GPU, from local files only; options as of the base class.

    Plain ``from_pretrained`` gives the file's tensors bit for bit, and fails to compute in another dtype than theirs;
    this engine lets them show the dtype that was asked for. Codes and scales stay as they are.
    """

    formats = frozenset({"torchao"})
    serves = False

    @property
    def description(self) -> str:
        """See the base class."""
        return f"torchao {version('torchao')} in transformers {transformers.__version__} ({self.dtype})"

    def weight(self, module: str) -> Tensor | None:
        """See the base class."""
        weight = super().weight(module)
        return weight.dequantize() if isinstance(weight, TorchAOBaseTensor) else weight

    def _loads_in_place(self, raw: dict[str, Any]) -> bool:
        method = raw.get(CONFIG_KEY, {}).get("quant_method")
        if method != "torchao":
            raise InputError(f"the engine torchao loads exports of the format torchao; this one is {method or 'plain'}")
        return True

    def _settle(self, model: PreTrainedModel) -> None:
        dtype = torch_dtype(self.dtype)
        retyped: dict[int, nn.Parameter] = {}
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, TorchAOBaseTensor) and weight.dtype != dtype:
                if id(weight) not in retyped:  # a tied weight stays one tensor
                    retyped[id(weight)] = nn.Parameter(_shown_as(weight, dtype), requires_grad=False)
                module.weight = retyped[id(weight)]


def _shown_as(weight: TorchAOBaseTensor, dtype: torch.dtype) -> TorchAOBaseTensor:
    """The same codes and float32 scales in a tensor of ``dtype``; ``Tensor.to`` would round the scales."""
    names = [*weight.tensor_data_names, *weight.tensor_attribute_names]
    names += getattr(weight, "optional_tensor_data_names", [])
    names += getattr(weight, "optional_tensor_attribute_names", [])
    return type(weight)(**{name: getattr(weight, name) for name in names} | {"dtype": dtype})
