"""What ``run=`` takes up: the quantized checkpoint of a finished run, and whether it is measured as it was then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qat.checkpoint import QuantizedCheckpoint
from qat.config import record
from qat.config.run_folder import RunFolder, difference
from qat.errors import InputError
from qat.models.loaded import LoadedModel

# What decides which tokens are scored.
_MEASURE = ("model", "data", "seed", "trainer.block_size", "evaluate.blocks")
# What tells one architecture from another, of those a config.json may have.
_ARCHITECTURE = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers")


def take_up(command: str, path: str) -> RunFolder:
    """The finished run in ``path``, for a command that has a config of its own.

    Raises:
        InputError: it is no run folder.
    """
    return RunFolder(command, Path(path), record.read_config(Path(path)), [], exists=True)


def name_of(folder: RunFolder) -> str:
    """What to call the run's model: its recipe, else its model, else its folder."""
    config = folder.config
    return str(config.get("recipe") or (config.get("choices") or {}).get("model") or folder.path.resolve().name)


def checkpoint(folder: RunFolder) -> QuantizedCheckpoint:
    """Load the run's quantized checkpoint.

    Raises:
        InputError: if the run has none, or it is damaged.
    """
    if not folder.quantized.is_dir():
        model = folder.path / "model"
        if model.is_dir():
            raise InputError(
                f"{folder.path} is a float training, so it has no quantized model; "
                f"score its float model with: qat evaluate model=hf model.path={model}"
            )
        raise InputError(
            f"{folder.path} has no quantized model; if its training was interrupted, finish it with: "
            f"qat run resume={folder.path}"
        )
    return QuantizedCheckpoint.load(folder.quantized)


def check_model(loaded: LoadedModel, checkpoint: QuantizedCheckpoint, folder: RunFolder) -> None:
    """Refuse a float model that is not of the architecture that was quantized.

    Raises:
        InputError: naming what differs.
    """
    for key in _ARCHITECTURE:
        before, now = checkpoint.config.get(key), getattr(loaded.model.config, key, None)
        if before is not None and before != now:
            raise InputError(
                f"{loaded.name} is not the model that {folder.path} quantized: its {key} is {now}, there it is "
                f"{before}; leave model and model.* out"
            )


def measured_otherwise(folder: RunFolder) -> str:
    """How this command measures on other text than the run did, or ``""``; as in ``seed=1 (0 in the run)``."""
    saved = record.read_config(Path(folder.path))
    changes = [difference(_at(saved, key), _at(folder.config, key), key) for key in _MEASURE]
    return ", ".join(f"{place}={now} ({before} in the run)" for place, before, now in filter(None, changes))


def _at(config: dict[str, Any], key: str) -> Any:
    node: Any = config
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node
