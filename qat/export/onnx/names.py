"""Names in an ONNX export: files, and tensors, which have the checkpoint's own names (``<module>.weight.codes``)."""

from __future__ import annotations

FORMAT_VERSION = 1

MODEL = "model.onnx"
DATA = "model.onnx.data"

CODES = "codes"
SCALE = "scale"
ZERO_POINT = "zero_point"

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"

METADATA = "qat"
"""Key of the model's metadata, a JSON object: format version, task, and of every module what ``read`` needs."""
