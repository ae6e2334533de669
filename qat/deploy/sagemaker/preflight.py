"""What AWS's LMI container takes, and what the endpoint's calls take; each a named check with its source."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qat.deploy.checks import Check, Preflight, Rule, rule
from qat.deploy.sagemaker import serving, sources
from qat.errors import InputError
from qat.export.folder import CONFIG_KEY, read_config
from qat.tensor_files import TensorFolder

if TYPE_CHECKING:
    from qat.deploy.sagemaker.target import SageMaker

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_FORMATS = ("pack-quantized", "int-quantized")
_AGAIN = "write the folder again: qat deploy target=sagemaker run=<run folder>"


@dataclass(frozen=True)
class Subject:
    """A container's folder and the options of its endpoint."""

    folder: Path
    target: SageMaker

    @property
    def quantization(self) -> dict[str, Any]:
        """``quantization_config`` of ``config.json``.

        Raises:
            InputError: there is none.
        """
        found = read_config(self.folder).get(CONFIG_KEY)
        if not isinstance(found, dict):
            raise InputError(f"{self.folder / 'config.json'} has no {CONFIG_KEY}")
        return found


@rule("sagemaker.1.files", "Files", "config.json, tokenizer_config.json and *.safetensors", sources.LMI)
def files(rule: Rule, subject: Subject) -> Check:
    missing = [name for name in ("config.json", "tokenizer_config.json") if not (subject.folder / name).is_file()]
    if missing:
        return rule.failed(f"{' and '.join(missing)} missing", _AGAIN)
    try:
        return rule.passed(f"{len(TensorFolder(subject.folder))} tensors")
    except InputError as error:
        return rule.failed(str(error), _AGAIN)


@rule("sagemaker.1.pickles", "No pickles", "safetensors alone", sources.POLICY)
def pickles(rule: Rule, subject: Subject) -> Check:
    found = sorted(path.name for path in subject.folder.rglob("*") if path.suffix in _PICKLES)
    return rule.unless(", ".join(found), "remove these files", "none")


@rule("sagemaker.2.format", "quantization_config", "compressed-tensors, pack-quantized or int-quantized", sources.VLLM)
def quantization_format(rule: Rule, subject: Subject) -> Check:
    method, form = subject.quantization.get("quant_method"), subject.quantization.get("format")
    problem = "" if method == "compressed-tensors" and form in _FORMATS else f"{method}, {form}"
    return rule.unless(problem, "export to compressed_tensors", f"{method}, {form}")


@rule("sagemaker.2.bits", "Bits", "W4A16, W8A16 or W8A8", sources.KERNELS)
def bits(rule: Rule, subject: Subject) -> Check:
    groups = subject.quantization.get("config_groups", {}).values()
    found = sorted({_scheme(group) for group in groups})
    other = [name for name in found if name not in ("W4A16", "W8A16", "W8A8")]
    if other:
        return rule.warned(
            ", ".join(other),
            "vLLM may have no kernel for it: try the folder in engine=vllm first, or use 4 or 8 bits",
        )
    return rule.passed(", ".join(found))


@rule("sagemaker.2.kv_cache", "kv_cache_scheme", "none, or FP8: vLLM stops at another", sources.VLLM)
def kv_cache(rule: Rule, subject: Subject) -> Check:
    scheme = subject.quantization.get("kv_cache_scheme") or {}
    found = f"{scheme.get('type')}, {scheme.get('num_bits')} bits" if scheme else "none"
    taken = not scheme or (scheme.get("type"), scheme.get("num_bits")) == ("float", 8)
    return rule.unless("" if taken else found, "export with export.compressed_tensors.kv_cache=engine", found)


@rule("sagemaker.3.engine", "serving.properties", "engine=Python and vLLM, by async_mode or rolling_batch", sources.LMI)
def engine(rule: Rule, subject: Subject) -> Check:
    held = serving.read(subject.folder / serving.FILE)
    rolling, service = held.get("option.rolling_batch"), held.get("option.entryPoint", "")
    vllm = rolling == "vllm" or (rolling == "disable" and "vllm" in service and held.get("option.async_mode") == "true")
    found = f"engine={held.get('engine')}, rolling_batch={rolling}, async_mode={held.get('option.async_mode', 'false')}"
    return rule.unless("" if held.get("engine") == "Python" and vllm else found, _AGAIN, found)


@rule("sagemaker.3.model_id", "option.model_id", serving.MODEL_ID, sources.LMI)
def model_id(rule: Rule, subject: Subject) -> Check:
    held = str(serving.read(subject.folder / serving.FILE).get("option.model_id"))
    return rule.unless("" if held == serving.MODEL_ID else held, f"option.model_id={serving.MODEL_ID}", held)


@rule("sagemaker.3.quantize", "option.quantize", "not set: vLLM reads it from config.json", sources.VLLM)
def quantize(rule: Rule, subject: Subject) -> Check:
    held = serving.read(subject.folder / serving.FILE)
    found = [f"{key}={held[key]}" for key in ("option.quantize", "option.quantization") if key in held]
    return rule.unless(", ".join(found), "remove that line", "not set")


@rule("sagemaker.3.dtype", "option.dtype", "that of config.json: fp16, bf16 or fp32", sources.LMI)
def dtype(rule: Rule, subject: Subject) -> Check:
    config, held = read_config(subject.folder), serving.read(subject.folder / serving.FILE).get("option.dtype")
    wanted = serving.DTYPES.get(str(config.get("dtype", config.get("torch_dtype"))))
    if wanted == "fp32" and held == wanted:
        why = "vLLM's kernels for packed weights take 16 bits"
        return rule.warned("fp32", f"{why}: start a new run with rest_dtype=float16, a finished one keeps its own")
    return rule.unless("" if held == wanted else f"{held}, config.json: {wanted}", f"option.dtype={wanted}", str(held))


@rule(
    "sagemaker.4.image",
    "Image",
    "<account>.dkr.ecr.<region>.amazonaws.com/djl-inference:<tag with lmi>",
    sources.REGISTRIES,
)
def image(rule: Rule, subject: Subject) -> Check:
    held, region = subject.target.image, subject.target.region
    account = sources.lmi_account(region)
    example = f"target.image={account or '<account>'}.dkr.ecr.{region}.amazonaws.com/djl-inference:<tag>"
    if held is None:
        return rule.not_run("not given", example)
    found = re.fullmatch(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/(\S+)", held)
    if found is None:
        return rule.failed(held, example)
    if found[2] != region:
        return rule.failed(f"an image of {found[2]} for an endpoint in {region}", example)
    own = found[1] == account and re.fullmatch(r"djl-inference:\S*lmi\S*", found[3]) is not None
    return rule.passed(held) if own else rule.warned(f"{held} is not AWS's own LMI image", example)


@rule("sagemaker.4.calls", "Names, role, instance, address", "as the service's own model writes them", sources.API)
def calls(rule: Rule, subject: Subject) -> Check:
    from qat.deploy.sagemaker import api  # needs the extra `deploy`

    target = subject.target
    options = ("s3_uri", "image", "role_arn", "instance")
    if missing := [f"target.{name}" for name in options if getattr(target, name) is None]:
        return rule.not_run(f"not given: {', '.join(missing)}", f"{missing[0]}=...")
    try:
        for call in api.creations(api.Endpoint.of(target)):
            call.check()
    except InputError as error:
        return rule.failed(str(error), "correct that option")
    return rule.passed(f"{target.instances} x {target.instance}")


RULES: tuple[Callable[[Subject], Check], ...] = (
    files,
    pickles,
    quantization_format,
    bits,
    kv_cache,
    engine,
    model_id,
    quantize,
    dtype,
    image,
    calls,
)


def preflight(target: SageMaker, folder: Path) -> Preflight:
    """Every rule, of ``folder`` and the options of ``target``."""
    subject = Subject(folder, target)
    return Preflight(target="sagemaker", folder=str(folder), checks=tuple(rule(subject) for rule in RULES))


def _scheme(group: dict[str, Any]) -> str:
    """Such as ``W4A16``."""
    weights, inputs = group.get("weights") or {}, group.get("input_activations") or {}
    return f"W{weights.get('num_bits', 16)}A{inputs.get('num_bits', 16)}"
