"""Find a model's folder: a local one as it is, or the local copy of a Hugging Face hub repository."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError

from qat.errors import InputError

# The top folder only: repositories keep copies in other formats below it (original/, onnx/, ...), and some
# keep all weights twice (Mistral's).
_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_UNWANTED = ["*/*", "consolidated*.safetensors"]


def model_folder(path: str, with_code: bool = False, weights: bool = True) -> Path:
    """Return the local folder of ``path``, downloading it from the hub if it is not a folder.

    Pickles are never downloaded, and Python code only when asked for.

    Args:
        path: a folder, or a hub id (``name`` or ``owner/name``).
        with_code: download ``*.py`` too, for a model whose code is trusted.
        weights: False for the tokenizer and config only.

    Raises:
        InputError: if there is no such folder and the hub does not give it (offline, unknown, gated).
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"'{path}' is a file; give the folder that holds it and its config.json")
    if folder.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1:
        raise InputError(f"no folder '{path}'; give a folder with config.json, or a hub id such as owner/name")
    wanted = [pattern for pattern in _WANTED if weights or pattern != "*.safetensors"]
    try:
        return Path(snapshot_download(path, allow_patterns=wanted + ["*.py"] * with_code, ignore_patterns=_UNWANTED))
    except GatedRepoError as error:
        raise InputError(
            f"'{path}' is gated on the Hugging Face hub; accept its terms there and run: hf auth login"
        ) from error
    except (OSError, HFValidationError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"'{path}' is neither a folder nor reachable on the Hugging Face hub ({reason}); "
            "check the name and the connection, or give a local folder"
        ) from error
