"""The ``quantization_config`` of a compressed-tensors export, built from compressed-tensors' own types.

Targets decide how engines find a module's group. transformers looks at full names before class names, vLLM
tests the class name of its fused ``qkv_proj`` before the names of the parts. With one group a class name is
therefore enough; with several, every module is listed by its full name, which both resolve to the same group.
"""

from __future__ import annotations

from typing import Any

from compressed_tensors.compressors.format import infer_module_format
from compressed_tensors.config import CompressionFormat
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    QuantizationStrategy,
)
from compressed_tensors.utils import get_head_dim
from compressed_tensors.utils.match import match_name
from pydantic import ValidationError
from torch import nn

from qat.checkpoint import QuantizedCheckpoint
from qat.errors import InputError
from qat.export.folder import CONFIG_KEY, unquantized_modules
from qat.models.build import config_from_dict
from qat.quantized import QuantizedWeight
from qat.scheme import HEAD


def module_scheme(entry: QuantizedWeight) -> QuantizationScheme:
    """The module's scheme with the file format that the library infers for it, and no targets.

    Weight-only integers are ``pack-quantized``; integers with quantized activations, also 4-bit ones, are
    ``int-quantized``: vLLM's W8A8 and W4A8 kernels take unpacked int8 codes.
    """
    scheme = entry.scheme.model_copy(update={"targets": [], "format": None})
    return scheme.model_copy(update={"format": infer_module_format(nn.Linear, scheme)})


def quantization_config(checkpoint: QuantizedCheckpoint) -> QuantizationConfig:
    """Config groups, ignored modules and format of ``checkpoint``."""
    groups: list[tuple[QuantizationScheme, list[str]]] = []
    for name, entry in checkpoint.weights.items():
        scheme = module_scheme(entry)
        known = next((names for other, names in groups if other == scheme), None)
        if known is None:
            groups.append((scheme, [name]))
        else:
            known.append(name)
    by_class = len(groups) == 1 and not _has_tied_weight(checkpoint) and HEAD not in _written_targets(checkpoint)
    formats = {scheme.format for scheme, _ in groups}
    return QuantizationConfig(
        config_groups={
            f"group_{index}": scheme.model_copy(update={"targets": _written_targets(checkpoint) if by_class else names})
            for index, (scheme, names) in enumerate(groups)
        },
        format=formats.pop() if len(formats) == 1 else CompressionFormat.mixed_precision,
        kv_cache_scheme=kv_cache_scheme(checkpoint),
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=unquantized_modules(checkpoint),
    )


def kv_cache_scheme(checkpoint: QuantizedCheckpoint) -> QuantizationArgs | None:
    """How compressed-tensors must be told to round keys and values as they were in training.

    Its dynamic ``token`` takes one scale for all tokens that a cache is given at once, so that a token depends on later
    ones. What has a scale a token and head in its words is a ``group`` as long as a head.

    Raises:
        InputError: keys and values of a dynamic cache have different sizes (latent attention), so no group fits both.
    """
    args = checkpoint.scheme.kv_cache
    if args is None or not args.dynamic:
        return args
    if checkpoint.config.get("kv_lora_rank"):
        raise InputError(
            "latent attention has keys and values of two sizes, and a kv_cache_scheme of tokens has one; set "
            "scheme.kv_cache.strategy=tensor and scheme.kv_cache.dynamic=false"
        )
    size = get_head_dim(config_from_dict(checkpoint.config).get_text_config(decoder=True))
    return QuantizationArgs(num_bits=args.num_bits, strategy="group", group_size=size, dynamic=True)


def parse_config(model_config: dict[str, Any]) -> QuantizationConfig:
    """The ``quantization_config`` of a model's ``config.json``; every group gets its format.

    Raises:
        InputError: it has none, or none of compressed-tensors.
    """
    raw = model_config.get(CONFIG_KEY)
    if not isinstance(raw, dict) or raw.get("quant_method") != "compressed-tensors":
        raise InputError(f"config.json has no {CONFIG_KEY} of compressed-tensors; this is another kind of export")
    try:
        config = QuantizationConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{CONFIG_KEY}.{'.'.join(map(str, first['loc']))}: {first['msg']}; export again") from None
    for group in config.config_groups.values():
        group.format = group.format or CompressionFormat(config.format)
    return config


def group_of(config: QuantizationConfig, module: str) -> QuantizationScheme:
    """The config group of a module of which only the name is known.

    Raises:
        InputError: several groups, and none of them names the module.
    """
    groups = list(config.config_groups.values())
    named = [group for group in groups if any(match_name(module, target) for target in group.targets)]
    if not named and len(groups) > 1:
        raise InputError(f"no config group of quantization_config names '{module}'; the export is damaged")
    return (named or groups)[0]


def packs_zero_points(scheme: QuantizationScheme) -> bool:
    """Whether the file holds packed zero points, along the output features."""
    weights = scheme.weights
    assert weights is not None
    packed = scheme.format == CompressionFormat.pack_quantized
    return packed and not weights.symmetric and weights.strategy != QuantizationStrategy.TENSOR


def _has_tied_weight(checkpoint: QuantizedCheckpoint) -> bool:
    """Whether a quantized weight has a second name, which is then stored under the first name only."""
    tied = {name for group in checkpoint.tied for name in group}
    return any(f"{module}.weight" in tied for module in checkpoint.weights)


def _written_targets(checkpoint: QuantizedCheckpoint) -> list[str]:
    """All targets of the scheme as the user wrote it, in order."""
    groups = checkpoint.scheme.config_groups.values()
    return list(dict.fromkeys(target for group in groups for target in group.targets))
