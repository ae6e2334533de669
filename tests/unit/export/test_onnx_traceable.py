from __future__ import annotations

import pytest
import torch
from support import VOCABULARY, random_llama
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError, RunError
from qat.export.onnx.exporter import OnnxExporter
from qat.export.onnx.modules import OPSET
from qat.export.onnx.trace import trace
from qat.export.onnx.traceable import check_traceable, foreign_operators, keep_first_of_each_kind
from qat.models.build import config_from_dict, on_meta
from qat.prepare import prepare
from qat.scheme import preset

pytestmark = pytest.mark.slow

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
OPERATOR = r"transformers\.grouped_mm_fallback"


def layers(kind: str, count: int, **changes) -> list[nn.Module]:
    model = on_meta(config_from_dict({"model_type": kind, "num_hidden_layers": count, **SIZES, **changes}), "causal_lm")
    keep_first_of_each_kind(model)
    assert model.config.num_hidden_layers == len(model.model.layers)
    return list(model.model.layers)


def test_a_mixture_of_experts_is_refused_before_training():
    torch.manual_seed(0)
    model = MixtralForCausalLM(MixtralConfig(num_hidden_layers=1, num_local_experts=2, **SIZES)).eval()
    with pytest.raises(RunError, match=f"MixtralForCausalLM to ONNX: No ONNX function found for .*{OPERATOR}"):
        trace(model, "causal_lm", OPSET)
    prepare(model, preset("w4a16_g32"))
    checkpoint = QuantizedCheckpoint.freeze(model, preset("w4a16_g32"))
    with pytest.raises(InputError, match=f"cannot hold MixtralForCausalLM: torch cannot write its operator {OPERATOR}"):
        OnnxExporter().takes(checkpoint)


def test_experts_that_begin_after_a_dense_layer_are_seen():
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 64, "mlp_only_layers": [0]}
    config = {"model_type": "qwen3_moe", "num_hidden_layers": 4, **SIZES, **experts}
    with pytest.raises(InputError, match=f"Qwen3MoeForCausalLM.*{OPERATOR}"):
        check_traceable(config, "causal_lm")


def test_code_that_looks_at_numbers_is_refused_with_torchs_reason(monkeypatch):
    def forward(self, x):
        return x if x.sum() > 0 else -x

    monkeypatch.setattr(LlamaMLP, "forward", forward)
    config = random_llama(num_hidden_layers=1, rms_norm_eps=1e-3).config.to_dict()  # of no other test
    with pytest.raises(InputError, match=r"torch cannot trace LlamaForCausalLM to ONNX: .*data-dependent"):
        check_traceable(config, "causal_lm")


@pytest.mark.parametrize("static", [None, (2, 16)])
def test_a_dense_model_passes(static):
    check_traceable(random_llama().config.to_dict(), "causal_lm", static)


def test_the_first_layer_of_each_kind_is_kept():
    assert len(layers("llama", 16)) == 1
    assert len(layers("gemma3_text", 12)) == 6  # five of a sliding window, then a full one


def test_an_operator_made_of_torchs_own_is_not_foreign():
    with torch.library._scoped_library("qat_test", "FRAGMENT") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x + x, "CompositeImplicitAutograd")
        library.define("opaque(Tensor x) -> Tensor")
        graph = torch.fx.Graph()
        x = graph.placeholder("x")
        made = graph.call_function(torch.ops.qat_test.twice.default, (x,))
        graph.output(graph.call_function(torch.ops.qat_test.opaque.default, (made,)))
        assert foreign_operators(torch.fx.GraphModule({}, graph)) == ["qat_test.opaque.default"]
