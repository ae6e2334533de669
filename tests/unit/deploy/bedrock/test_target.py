"""What ``Bedrock.prepare`` writes, and what a preflight takes."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from qat.deploy.base import Source
from qat.deploy.bedrock.target import Bedrock, import_folder
from qat.errors import InputError
from qat.export.compressed_tensors import CompressedTensorsExporter
from qat.paths import configs_dir
from qat.prepare import prepare
from qat.restore import restore
from qat.tensor_files import INDEX


def test_the_twin_is_the_integer_model_bit_for_bit(source, prepared):
    tensors = load_file(prepared / "import" / "model.safetensors")
    model = restore(source.checkpoint).state_dict()
    assert set(tensors) == set(model) - {"lm_head.weight"}  # tied
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float16
        assert torch.equal(tensor.float(), model[name])


def test_the_twin_is_in_the_dialect(prepared):
    config = json.loads((prepared / "import" / "config.json").read_text())
    assert (config["torch_dtype"], config["rope_theta"]) == ("float16", 10000.0)
    assert not {"dtype", "rope_parameters", "quantization_config"} & config.keys()
    assert set(json.loads((prepared / "import" / INDEX).read_text())["metadata"]) == {"total_size"}
    tokenizer = json.loads((prepared / "import" / "tokenizer_config.json").read_text())
    assert "messages" in tokenizer["chat_template"]
    assert not (prepared / "import" / "chat_template.jinja").exists()


def test_packed_holds_the_codes(source, prepared):
    read = CompressedTensorsExporter().read(prepared / "packed")
    assert set(read) == set(source.checkpoint.weights)
    for name, module in read.items():
        assert torch.equal(module.weight.codes, source.checkpoint.weights[name].grid.codes)


def test_a_twin_that_is_not_exact_is_refused(source, tmp_path, fp32_scales):
    with pytest.raises(InputError, match="cannot hold"):
        Bedrock().prepare(Source(fp32_scales, source.tokenizer, "tiny"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def fp32_scales():
    """A checkpoint whose scales have too many bits for 16-bit files."""
    from support import random_llama

    from qat.checkpoint import QuantizedCheckpoint
    from qat.scheme import Scheme

    weights = {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": True}
    scheme = Scheme({"all": {"targets": ["Linear"], "weights": weights}}, [], "fp32")
    model = random_llama()
    prepare(model, scheme)
    return QuantizedCheckpoint.freeze(model, scheme)


def test_a_preflight_takes_what_prepare_wrote_or_any_folder(prepared, given):
    assert given.preflight(prepared) == given.preflight(prepared / "import")
    assert import_folder(prepared / "packed") == prepared / "packed"


def test_a_preflight_of_nothing(tmp_path, given):
    with pytest.raises(InputError, match="is no folder"):
        given.preflight(tmp_path / "x")
    assert {check.rule for check in given.preflight(tmp_path).failed} == {"bedrock.4.shards", "bedrock.5.files"}


def test_a_push_wants_an_address_and_a_role():
    address, role = "'target.s3_uri=\"s3://<bucket>/<prefix>\"'", "target.create_role=true"
    assert Bedrock().next_words == (address, role)
    assert Bedrock(role_arn="arn").next_words == ("target.role_arn=arn", address)
    assert Bedrock(s3_uri="s3://bucket/a").next_words == ("target.s3_uri=s3://bucket/a", role)
    with pytest.raises(InputError, match=f"{address} {role}$"):
        Bedrock().check_options("push")
    Bedrock(s3_uri="s3://bucket/a").check_options("push")  # which prints the policies of the role, and refuses


@pytest.mark.parametrize("option", ["trust_policy", "permission_policy", "key_policy"])
@pytest.mark.parametrize("content", [None, "no json", "[]"])
@pytest.mark.parametrize("action", ["preflight", "push"])
def test_a_policy_that_cannot_be_read(tmp_path, option, content, action):
    path = tmp_path / "policy.json"
    target = Bedrock(s3_uri="s3://bucket/a", **{option: str(path)})
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=f"target.{option}={path}: .+; give a file with the policy as JSON$"):
        target.check_options(action)
    target.check_options("delete")
    path.write_text("{}")
    target.check_options(action)


def test_the_config_has_every_option_and_its_default():
    written = yaml.safe_load((configs_dir() / "target" / "bedrock.yaml").read_text())
    assert written.pop("_target_") == "qat.deploy.bedrock.target.Bedrock"
    assert written == vars(Bedrock())
