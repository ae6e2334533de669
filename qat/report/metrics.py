"""The schema of ``metrics.json``: everything a run measured, in one file with sorted keys.

Losses are in nats a token, perplexity is ``exp(loss)`` by the protocol of :mod:`qat.evaluate.perplexity`, all
on the same split and the same blocks. A number that could not be measured is null.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qat.errors import InputError, nearest


class Strict(BaseModel):
    """A misspelt key is an error, also when reading."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, protected_namespaces=())


class Quality(Strict):
    """How good one model is; a language model has the first five, an encoder ``cosine`` and ``mse``.

    Attributes:
        loss: nats a token.
        perplexity: exp(loss).
        top1_agreement: share of tokens whose most probable prediction is that of the float reference.
        kl: mean KL(reference || model) in nats a token.
        bytes: size of the weights; those of a float model in the dtype of the base's files.
        cosine: mean cosine similarity of the hidden states to the reference's.
        mse: mean squared error of the hidden states.
        of: which float model this was made from, of a PTQ result.
    """

    loss: float | None = None
    perplexity: float | None = None
    top1_agreement: float | None = None
    kl: float | None = None
    bytes: int | None = None
    cosine: float | None = None
    mse: float | None = None
    of: Literal["tuned_float", "base"] | None = None


class QATQuality(Quality):
    """The trained model.

    Attributes:
        recovery: PTQ method -> share of its loss that QAT won back (1 is the float reference); null if
        undefined.
        recovery_undefined: PTQ method -> why its recovery is null.
        recovery_against: the float reference of the recovery, and of the PTQ in it.
    """

    recovery: dict[str, float | None] = Field(default_factory=dict)
    recovery_undefined: dict[str, str] = Field(default_factory=dict)
    recovery_against: Literal["tuned_float", "base"] = "base"


class EngineResult(Strict):
    """What one engine made of one export.

    Attributes:
        status: ``ok``: it loaded the export and computed with it; ``not_available``: this machine lacks the engine,
            the processor a kernel that it needs, or the engine support for such files; ``failed``: it could
            not load the export, or computes another model. Only ``ok`` says that the export works there.
        reason: why not, and what to do; of an ``ok`` one that gave no logits, why, and what was compared
            in their place.
        description: the engine, its version and how it loaded the export.
        weights_different: weights that the engine computes with whose bits are not those of the checkpoint's values in
            the engine's dtype; null where it does not give its weights.
        max_logit_difference: largest absolute difference to the fake-quantized model's logits in float32 (to its
            log-probabilities, of an engine that gives no others) on a few short blocks.
        loss: nats a token, on the tokens that every model of the run is scored on.
        perplexity: exp(loss).
        greedy_tokens_equal: ``[equal, all]`` tokens of greedy continuations of a few prompts from the test text; equal
            are those before the first that is not the fake-quantized model's.
        prompt_tokens_per_second: tokens read a second.
        generated_tokens_per_second: tokens generated a second, one after the other.
        peak_memory_bytes: largest resident memory of the engine's process, its libraries included.
    """

    status: Literal["ok", "not_available", "failed"]
    reason: str | None = None
    description: str | None = None
    weights_different: int | None = None
    max_logit_difference: float | None = None
    loss: float | None = None
    perplexity: float | None = None
    greedy_tokens_equal: tuple[int, int] | None = None
    prompt_tokens_per_second: float | None = None
    generated_tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None


class ExportResult(Strict):
    """One export, re-read, and loaded by real engines.

    Attributes:
        bytes: size of the folder.
        files_sha256: SHA-256 (hex) of the names and SHA-256 of all its files: which files the results are of.
        tensors: quantized tensors in it.
        mismatched_codes: integers that differ from the checkpoint; of a format without integers, values that do.
        mismatched_zero_points: zero points that differ.
        mismatched_scales: scales that differ in their bits.
        engines: engine -> what it made of these files, whichever command asked it; empty where none was chosen that
            loads the format.
        engine: description of the first engine that loaded it, of those asked last; the next three are its as well.
        max_logit_difference: see :class:`EngineResult`.
        loss: nats a token of the loaded export.
        perplexity: exp(loss).
    """

    bytes: int
    files_sha256: str | None = None
    tensors: int
    mismatched_codes: int
    mismatched_zero_points: int = 0
    mismatched_scales: int
    engines: dict[str, EngineResult] = Field(default_factory=dict)
    engine: str | None = None
    max_logit_difference: float | None = None
    loss: float | None = None
    perplexity: float | None = None

    @property
    def mismatches(self) -> int:
        """Numbers of any kind that differ."""
        return self.mismatched_codes + self.mismatched_zero_points + self.mismatched_scales


class Train(Strict):
    """Cost of the QAT training.

    Attributes:
        steps: optimizer steps.
        tokens: tokens trained on.
        tokens_per_second: mean over the run.
        peak_memory_bytes: of the process (CPU) or the device (GPU).
        seconds: wall time of the training loop.
        teacher_cache_bytes: of the teacher's answers on disk, where a loss reads them.
    """

    steps: int | None = None
    tokens: int | None = None
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    seconds: float | None = None
    teacher_cache_bytes: int | None = None


class Environment(Strict):
    """What ran it.

    Attributes:
        python: version.
        platform: operating system and machine.
        cpus: logical processors that the process may use.
        accelerator: name of the GPU, or null.
        versions: package -> version.
        commit: git commit of the package's checkout, ``-dirty`` appended if it was changed; null in a wheel.
    """

    python: str
    platform: str
    cpus: int
    accelerator: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    commit: str | None = None


class Sample(Strict):
    """One prompt and what the models made of it: row name (``float``, ``qat``, ...) -> continuation."""

    prompt: str
    continuations: dict[str, str] = Field(default_factory=dict)


class Metrics(Strict):
    """The whole of ``metrics.json``.

    Attributes:
        recipe: name of the recipe, or null if the run was put together by hand.
        model: name of the model.
        scheme: name of the scheme, or its groups in short.
        data: what the data source says of itself.
        base: the float model as it came (key ``float``).
        tuned_float: the float model trained on for the same steps.
        ptq: method -> result.
        qat: the trained model.
        exports: format -> result.
        train: cost.
        environment: what ran it.
        unmeasured: why no model was scored and no engine asked; null where they were.
        samples: continuations, side by side.
    """

    recipe: str | None = None
    model: str
    scheme: str
    data: dict[str, Any] = Field(default_factory=dict)
    base: Quality | None = Field(default=None, alias="float")
    tuned_float: Quality | None = None
    ptq: dict[str, Quality] = Field(default_factory=dict)
    qat: QATQuality | None = None
    exports: dict[str, ExportResult] = Field(default_factory=dict)
    train: Train | None = None
    environment: Environment | None = None
    unmeasured: str | None = None
    samples: list[Sample] = Field(default_factory=list)


def write(metrics: Strict, path: Path) -> None:
    """Write ``metrics``, or another report, as JSON with sorted keys; the file is replaced at once, never half-written.

    JSON has no infinity and no NaN: such a number becomes null.
    """
    values = json.loads(metrics.model_dump_json(by_alias=True))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> Metrics:
    """Read and check a ``metrics.json``.

    Raises:
        InputError: no such file, no JSON, or a key or value that is not in the schema, which is named.
    """
    try:
        return Metrics.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give a run folder's metrics.json") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        hint = nearest(where, Metrics.model_fields) if first["type"] == "extra_forbidden" else ""
        raise InputError(f"{path}: {where or 'not JSON'}: {first['msg']}{hint}") from None
