"""The typed base of every run: ``configs/config.yaml`` and the recipes fill in this dataclass.

A *component* is a node with a ``_target_`` that comes from a config group (``model=hf`` puts
``configs/model/hf.yaml`` at ``model``). Its options are checked against the target's signature in
:mod:`qat.config.check`, so no component is described twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from qat.errors import InputError, nearest

# Where a component may sit -> the package that its target must be in.
COMPONENTS = {
    "model": "qat.models",
    "data": "qat.data",
    "scheme": "qat.scheme",
    "fake_quantizer": "qat.fake_quant",
    "observer": "qat.observers",
    "ptq": "qat.ptq",
    "loss": "qat.training",
    "optimizer": "qat.training",
    "trainer": "qat.training",
    "logger": "qat.training",
    "target": "qat.deploy",
    "gateway": "qat.serve",
    "traffic": "qat.plan",
}
# Where any number of components sit, each under a name of its own.
NAMED_COMPONENTS = {
    "schedule": "qat.schedule",
    "baseline.ptq": "qat.ptq",
    "export": "qat.export",
    "engine": "qat.engines",
    "pricing": "qat.plan",
}
REST_DTYPES = ("auto", "float32", "bfloat16", "float16")
# What decides the weights that a training ends with: a resume must find these unchanged.
TRAINING_KEYS = (
    *("recipe", "seed", "model", "data", "scheme", "fake_quantizer", "observer", "ptq", "calibration_batches"),
    "rest_dtype",
    *("loss", "optimizer", "trainer", "schedule", "baseline"),
)
# What a finished run has settled: for the commands that take `run=` these could have no effect.
SETTLED_KEYS = (
    *("recipe", "scheme", "fake_quantizer", "observer", "ptq", "calibration_batches", "rest_dtype"),
    *("rows", "seeds", "tune", "widths", "granularity", "stream"),
    *("loss", "optimizer", "schedule", "phase", "baseline", "expect", "run_dir"),
)


@dataclass
class Baseline:
    """What the result is compared with."""

    # Train the float base on for the same steps, data, rates: the honest float reference, at twice the cost.
    tuned_float: bool = False
    # PTQ algorithms that start from the tuned float (or the base, without one): name -> component of `ptq`.
    ptq: dict[str, Any] = field(default_factory=dict)


@dataclass
class Evaluate:
    """How models are scored; the same for float, PTQ, QAT and exports."""

    # Blocks of the test split that are scored, from the first one on; null: all of them.
    blocks: int | None = None
    batch_size: int = 8
    # Write sample continuations of `prompts` into metrics.json.
    generate: bool = False
    prompts: list[str] = field(default_factory=lambda: ["def ", "import "])
    max_new_tokens: int = 48

    def __post_init__(self) -> None:
        for name in ("blocks", "batch_size", "max_new_tokens"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:  # while Hydra composes, it may be an interpolation
                raise InputError(f"evaluate.{name}={value} must be 1 or more")


@dataclass
class Choices:
    """Names of the configs that were picked, for reports and folders."""

    model: str | None = None
    scheme: str | None = None
    ptq: str | None = None


@dataclass
class RunConfig:
    """One run, whatever the command; a command reads the parts it needs."""

    # Name of the recipe, filled in by the choice `recipe=<folder>/<name>`.
    recipe: str | None = None
    choices: Choices = field(default_factory=Choices)
    seed: int = 0
    # Where the result goes; null: outputs/<recipe or model>/<time>.
    run_dir: str | None = None
    # Continue this interrupted run folder (commands `run` and `train`; `ptq` with stream=true or block by block).
    resume: str | None = None
    # Work on this finished run folder (commands `export`, `evaluate` and `validate`).
    run: str | None = None
    # A folder of your own recipes; they come before the shipped ones.
    recipes: str | None = None

    model: Any = None
    data: Any = None
    scheme: Any = None
    fake_quantizer: Any = None
    # Sets the ranges of static activations; those of weights are up to `ptq`.
    observer: Any = None
    # What quantizes the model: instead of training (`ptq`), or before it (`run` and `train`).
    ptq: Any = None
    # Command `ptq`: read, quantize and export one tensor (gptq and the like: one block) at a time, for a model=hf
    # folder that does not fit in memory. The numbers are the same; nothing is scored, no activation can be static.
    stream: bool = False
    # Batches of the training split that PTQ algorithms and static activations are calibrated on.
    calibration_batches: int = 8
    # Dtype of what is not quantized (embeddings, norms, ...) in every quantized model of the run: float32, bfloat16,
    # float16, or auto: that of the base's own files.
    rest_dtype: str = "auto"
    # Command `sensitivity`: the bits at which every layer is measured; null: 2, 3, 4 and 8.
    widths: list[int] | None = None
    # Command `sensitivity`: what has one width: `layer`, `shared_input` (layers that read the same tensor, such as
    # query, key and value) or `block`; null: layer.
    granularity: str | None = None
    # Command `allocate`: bits a weight, on average over the quantized ones and without scales.
    budget: float | None = None
    # In place of `budget`: bytes of the whole quantized checkpoint.
    budget_bytes: float | None = None
    # Command `compare`: rows of the table, configs/row/<name>.yaml; empty: all of them.
    rows: list[str] = field(default_factory=list)
    # Command `compare`: seeds of the rows; empty: 0, 1 and 2.
    seeds: list[int] = field(default_factory=list)
    # Command `compare`: try the values that a row names for its options, and keep those with the lowest validation
    # loss; false: the recipe's.
    tune: bool = True
    loss: Any = None
    optimizer: Any = None
    trainer: Any = None
    logger: Any = None
    # Formats to write: name -> component.
    export: dict[str, Any] = field(default_factory=dict)
    # Engines that load every export they know the format of: name -> component.
    engine: dict[str, Any] = field(default_factory=dict)
    # Write over an export that exists (command `export`).
    overwrite: bool = False

    # Phases in order: name -> component of group `phase`. Empty: `fake_quant` for the whole run.
    schedule: dict[str, Any] = field(default_factory=dict)
    baseline: Baseline = field(default_factory=Baseline)
    evaluate: Evaluate = field(default_factory=Evaluate)
    # Bounds that `qat run` holds its metrics.json to: the same nesting, ending in `{min: ..}` or `{max: ..}`.
    expect: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rest_dtype not in REST_DTYPES and "${" not in self.rest_dtype:
            raise InputError(
                f"rest_dtype={self.rest_dtype} is not one of {', '.join(REST_DTYPES)}"
                f"{nearest(self.rest_dtype, REST_DTYPES)}"
            )


def register() -> None:
    """Make :class:`RunConfig` known to Hydra under the name that ``configs/config.yaml`` starts from."""
    ConfigStore.instance().store(name="run_config", node=RunConfig, provider="qat")
