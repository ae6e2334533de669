"""Keep the start-up remarks of libraries, which no user of a command line can act on, off the screen."""

from __future__ import annotations

import logging
import os
import warnings


def libraries() -> None:
    """Call before torch is imported. What a user set in the environment stays as it is."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("torchao", "torch.utils._pytree", "torch.distributed", "pytorch_lightning", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("torch", "torchao", "pytorch_lightning", "transformers", "compressed_tensors"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
