"""vLLM on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qat.engines.chat_template import counter_of, of_folder, template_of
from qat.engines.foreign import Foreign
from qat.engines.serving import LOOPBACK, NO_PARSERS, ServerLaunch, scratch
from qat.environments import ON_THE_CPU
from qat.export.folder import CONFIG_KEY, read_config
from qat.models.loaded import Dtype

_ALONE = {  # as its worker: other work has the machine's cores too, and nothing is bound but the loopback
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_HOST_IP": LOOPBACK,
    "VLLM_LOOPBACK_IP": LOOPBACK,
    "GLOO_SOCKET_IFNAME": "lo",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
_MODEL = "qat"


class VllmEngine(Foreign):
    """vLLM's CPU backend, inside a worker or as its own server.

    Its "logits" are log-probabilities, and for vocabularies of up to 16,384 tokens only. Its kernel for W4A16 needs
    AVX-512; one that lacks is vLLM's own error when an export is loaded.

    Args:
        dtype: of activations and unquantized weights; None: float16 for packed weights, whose kernel takes no
            float32, else float32.
        context: longest sequence in tokens, at most the model's own.
        kv_cache_gib: memory for keys and values.
        time_limit: seconds that loading, and every later question, may take.
    """

    formats = frozenset({"compressed_tensors", "dequantized", "gptq"})
    serves = True
    normalised = True
    own_losses = True
    environment = "vllm"
    package = "vllm"
    cpu_flags = frozenset({"avx2"})

    def __init__(
        self,
        dtype: Dtype | None = None,
        context: int = 2048,
        kv_cache_gib: int = 1,
        time_limit: float = 3600.0,
    ) -> None:
        super().__init__(time_limit, dtype=dtype, context=context, kv_cache_gib=kv_cache_gib)

    def server(self, directory: Path, port: int, chat_template: str | None = None) -> ServerLaunch:
        """See the base class: the module behind ``vllm serve``, which works on several requests at once.

        The command itself asks for the version of a distribution named vllm, and the CPU's is named vllm-cpu.
        """
        template = template_of(chat_template, of_folder(directory), directory)
        config = read_config(directory)
        files = scratch()
        context = min(self._options["context"], config.get("max_position_embeddings") or self._options["context"])
        options: dict[str, Any] = {
            "model": directory.resolve(),
            "host": LOOPBACK,
            "port": port,
            "served-model-name": _MODEL,
            "dtype": self._options["dtype"] or ("float16" if _is_packed(config) else "float32"),
            "max-model-len": context,
            "generation-config": "vllm",  # a request's options and no others; stop tokens are still the model's
        }
        if template is not None:
            path = Path(files.name) / "chat_template.jinja"
            path.write_text(template, encoding="utf-8")
            options["chat-template"] = path
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = self.python.command("-m", "vllm.entrypoints.openai.api_server", *words)
        # Compiling takes a C++ compiler and minutes.
        command += ("--enforce-eager", "--disable-log-stats")
        environment = ON_THE_CPU | _ALONE | {"VLLM_CPU_KVCACHE_SPACE": str(self._options["kv_cache_gib"])}
        return ServerLaunch(
            command,
            environment,
            refuses=NO_PARSERS,
            model=_MODEL,
            key_variable="VLLM_API_KEY",
            context=context,
            count=counter_of(directory, template),
            files=files,
        )


def _is_packed(config: dict[str, Any]) -> bool:
    entry = config.get(CONFIG_KEY, {})
    return entry.get("quant_method") == "gptq" or "pack-quantized" in json.dumps(entry)
