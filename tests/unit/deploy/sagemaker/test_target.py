from __future__ import annotations

import shlex
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qat.deploy.base import Source
from qat.deploy.checks import Preflight
from qat.deploy.sagemaker import serving, sources
from qat.deploy.sagemaker.target import ARCHIVE, MODEL, SageMaker, model_folder, pack, uploaded
from qat.errors import InputError
from qat.tensor_files import read_json

GIVEN = SageMaker(
    s3_uri="s3://bucket/models/tiny",
    image="763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-lmi20.0.0-cu128",
    role_arn="arn:aws:iam::123456789012:role/Serve",
    instance="ml.g6.xlarge",
)


@pytest.fixture
def folder(source: Source, tmp_path: Path) -> Path:
    made = tmp_path / "sagemaker"
    made.mkdir()
    replace(GIVEN, packaging="tar").prepare(source, made)
    return made


def statuses(preflight: Preflight) -> dict[str, str]:
    return {check.rule: check.status for check in preflight.checks}


def test_writes_what_the_container_loads(folder: Path) -> None:
    config = read_json(folder / MODEL / "config.json")
    assert config["quantization_config"]["format"] == "pack-quantized"
    assert (folder / MODEL / serving.FILE).read_text().splitlines() == [
        "engine=Python",
        "option.model_id=/opt/ml/model",
        "option.dtype=fp16",
        "option.async_mode=true",
        "option.rolling_batch=disable",
        "option.entryPoint=djl_python.lmi_vllm.vllm_async_service",
        "option.tensor_parallel_degree=max",
        "option.max_rolling_batch_size=64",
    ]


def test_the_properties_of_older_containers() -> None:
    values = serving.properties("float16", "rolling", tensor_parallel=2, context=4096, batch=8)
    assert values == {
        "engine": "Python",
        "option.model_id": "/opt/ml/model",
        "option.dtype": "fp16",
        "option.rolling_batch": "vllm",
        "option.tensor_parallel_degree": "2",
        "option.max_rolling_batch_size": "8",
        "option.max_model_len": "4096",
    }


def test_the_archive_has_the_same_files_at_its_top(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(folder / ARCHIVE) as tar:
        tar.extractall(tmp_path / "opened", filter="data")
    names = {path.name for path in (folder / MODEL).iterdir()}
    assert {path.name for path in (tmp_path / "opened").iterdir()} == names
    assert all((tmp_path / "opened" / name).read_bytes() == (folder / MODEL / name).read_bytes() for name in names)


def test_the_same_files_make_the_same_archive(folder: Path, tmp_path: Path) -> None:
    (folder / MODEL / "config.json").touch()
    pack(folder / MODEL, tmp_path / "again.tar.gz")
    assert (tmp_path / "again.tar.gz").read_bytes() == (folder / ARCHIVE).read_bytes()


def test_what_is_uploaded(folder: Path) -> None:
    assert uploaded(GIVEN, folder) == folder / MODEL == model_folder(folder)
    assert uploaded(replace(GIVEN, packaging="tar"), folder) == folder / ARCHIVE
    (folder / ARCHIVE).unlink()
    with pytest.raises(InputError, match="has no model.tar.gz; push with target.packaging=prefix, or make it"):
        uploaded(replace(GIVEN, packaging="tar"), folder)
    with pytest.raises(InputError, match="is no folder"):
        model_folder(folder / "none")


def test_an_archive_that_is_missing_is_made_with_this_command(tmp_path: Path) -> None:
    folder = tmp_path / "deploy" / "sagemaker"
    folder.mkdir(parents=True)
    command = f"qat deploy target=sagemaker run={tmp_path} target.packaging=tar target.batch=8 overwrite=true"
    with pytest.raises(InputError) as raised:
        uploaded(SageMaker(packaging="tar", batch=8), folder)
    assert str(raised.value).endswith(f"or make it: {command}")


def test_a_push_names_every_option_that_it_lacks() -> None:
    lacking = [
        "target.s3_uri=s3://<bucket>/<prefix>",
        "target.image=<uri>",
        "target.role_arn=<arn>",
        "target.instance=<type>",
    ]
    with pytest.raises(InputError) as raised:
        SageMaker().check_options("push")
    words = shlex.split(str(raised.value).partition("add: ")[2])
    assert [word.replace('"', "") for word in words] == lacking
    assert SageMaker(image="a", role_arn="b", s3_uri="s3://bucket/a").lacking == ("'target.instance=\"<type>\"'",)
    GIVEN.check_options("push")
    SageMaker().check_options("preflight")


def test_every_check_passes(folder: Path) -> None:
    assert set(statuses(GIVEN.preflight(folder)).values()) == {"pass"}


def test_without_options_the_folder_is_still_checked(folder: Path) -> None:
    found = statuses(SageMaker().preflight(folder))
    assert {rule for rule, status in found.items() if status != "pass"} == {"sagemaker.4.image", "sagemaker.4.calls"}
    assert found["sagemaker.4.image"] == found["sagemaker.4.calls"] == "not_run"


def edit(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / MODEL / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("rule", "status", "name", "old", "new"),
    [
        ("sagemaker.2.format", "fail", "config.json", "compressed-tensors", "gptq"),
        ("sagemaker.2.bits", "warn", "config.json", '"num_bits": 4', '"num_bits": 3'),
        (
            "sagemaker.2.kv_cache",
            "fail",
            "config.json",
            '"kv_cache_scheme": null',
            '"kv_cache_scheme": {"type": "int", "num_bits": 8}',
        ),
        ("sagemaker.3.engine", "fail", serving.FILE, "engine=Python", "engine=MPI"),
        ("sagemaker.3.engine", "fail", serving.FILE, "async_mode=true", "async_mode=false"),
        ("sagemaker.3.model_id", "fail", serving.FILE, "/opt/ml/model", "s3://bucket/tiny"),
        ("sagemaker.3.quantize", "fail", serving.FILE, "engine=Python", "engine=Python\noption.quantize=awq"),
        ("sagemaker.3.dtype", "fail", serving.FILE, "fp16", "bf16"),
        ("sagemaker.3.engine", "not_run", serving.FILE, "engine=Python", "engine Python"),
    ],
)
def test_what_is_wrong_in_the_folder(folder: Path, rule: str, status: str, name: str, old: str, new: str) -> None:
    edit(folder, name, old, new)
    assert statuses(GIVEN.preflight(folder))[rule] == status


def test_missing_files_and_pickles(folder: Path) -> None:
    (folder / MODEL / "tokenizer_config.json").unlink()
    (folder / MODEL / "training.pt").write_bytes(b"")
    found = statuses(GIVEN.preflight(folder))
    assert found["sagemaker.1.files"] == found["sagemaker.1.pickles"] == "fail"


def test_a_damaged_weight_file(folder: Path) -> None:
    (folder / MODEL / "model.safetensors").write_bytes(b"no")
    assert statuses(GIVEN.preflight(folder))["sagemaker.1.files"] == "fail"


@pytest.mark.parametrize(
    ("rule", "status", "changes"),
    [
        ("sagemaker.4.image", "fail", {"image": "djl-inference:0.36.0"}),
        (
            "sagemaker.4.image",
            "warn",
            {"image": "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-cpu-full"},
        ),
        ("sagemaker.4.image", "fail", {"region": "us-west-2"}),
        ("sagemaker.4.image", "warn", {"image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/mine:1"}),
        ("sagemaker.4.calls", "fail", {"instance": "ml.g99.huge"}),
        ("sagemaker.4.calls", "fail", {"role_arn": "Serve"}),
        ("sagemaker.4.calls", "fail", {"endpoint_name": "tiny_llama"}),
        ("sagemaker.4.calls", "fail", {"start_minutes": 61}),
        ("sagemaker.4.calls", "fail", {"s3_uri": "bucket"}),
    ],
)
def test_wrong_options(folder: Path, rule: str, status: str, changes: dict[str, Any]) -> None:
    assert statuses(replace(GIVEN, **changes).preflight(folder))[rule] == status


def test_the_registry_of_a_region() -> None:
    assert sources.lmi_account("eu-central-1") == "763104351884"
    assert sources.lmi_account("ap-east-1") == "871362719292"
    assert sources.lmi_account("mars-1") is None
