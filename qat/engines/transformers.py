"""Load a compressed-tensors or dequantized export with transformers.

The plain ``from_pretrained`` is used wherever it is exact. transformers 5.23 cannot load packed zero points
in place (compressed-tensors 0.20 gives them the shape of unpacked ones) nor quantized embeddings, and while
dequantizing it rounds to the dtype of the scales. Such an export is assembled: the same transformers model,
the weights from compressed-tensors' own decompressor in float32, its own rounding of activations.
``description`` says which it was.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from compressed_tensors.offload import remove_dispatch
from compressed_tensors.quantization import apply_quantization_config
from torch import Tensor
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.pytorch_utils import Conv1D

from qat.checkpoint import GENERATION
from qat.engines.base import Engine, not_loaded
from qat.engines.chat_template import counter_of, of_folder, template_of
from qat.engines.serving import LOOPBACK, NO_PARSERS, ServerLaunch, check_temporary_path, linked, scratch
from qat.errors import InputError
from qat.evaluate.forward import evaluating, outputs
from qat.export.compressed_tensors import read_modules
from qat.export.ct_config import group_of, packs_zero_points, parse_config
from qat.export.ct_tensors import decompress
from qat.export.folder import CONFIG_KEY, read_config
from qat.models.build import AUTO_CLASSES, detect_task, quiet, reason, torch_dtype
from qat.models.loaded import Dtype

# frequency_penalty would be taken as another penalty, a stop text left in the answer; the rest is ignored.
_REFUSED = NO_PARSERS | {"frequency_penalty", "presence_penalty", "response_format", "stop", "stream_options"}


class TransformersEngine(Engine):
    """transformers on CPU or GPU, from local files only.

    Args:
        dtype: dtype of the dequantized weights and the activations. float32 is what parity is stated in.
        device: ``cpu``, ``cuda``, ...; None: the one that :meth:`load` is given.

    Raises:
        InputError: an unknown dtype.
    """

    formats = frozenset({"compressed_tensors", "dequantized"})
    serves = True

    def __init__(self, dtype: Dtype = "float32", device: str | None = None) -> None:
        torch_dtype(dtype)
        self.dtype: Dtype = dtype
        self.device = device
        self._how: Literal["from_pretrained", "assembled"] = "from_pretrained"
        self._model: PreTrainedModel | None = None

    @property
    def description(self) -> str:
        """See the base class."""
        return f"transformers {transformers.__version__} ({self._how}, {self.dtype})"

    @property
    def model(self) -> PreTrainedModel:
        """The loaded model.

        Raises:
            InputError: nothing is loaded yet.
        """
        if self._model is None:
            raise not_loaded()
        return self._model

    def load(self, directory: Path, device: torch.device | str = "cpu") -> None:
        """See the base class; the head is the one that ``architectures`` in ``config.json`` names."""
        directory = Path(directory)
        raw = read_config(directory)
        self._how = "from_pretrained" if self._loads_in_place(raw) else "assembled"
        plain = self._how == "from_pretrained"
        try:
            config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
            self.task = detect_task(config)
            with quiet(), _quiet_bars():
                model = self._from_pretrained(directory) if plain else self._assembled(directory, config)
        except InputError:
            raise
        except (ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"transformers cannot load {directory}: {reason(error)}") from error
        self.directory = directory
        self._model = model.eval()
        self._model.to(self.device or device)  # type: ignore[arg-type] # transformers' wrapper hides the signature

    def logits(self, tokens: Tensor) -> Tensor:
        """See the base class."""
        with evaluating(self.model):
            return outputs(self.model, tokens).float()

    def weight(self, module: str) -> Tensor | None:
        """See the base class."""
        found = self.model.get_submodule(module)
        weight: Tensor = found.weight.detach()  # type: ignore[operator]
        return weight.t() if isinstance(found, Conv1D) else weight

    def continue_greedily(self, prompt: list[int], new_tokens: int) -> list[int]:
        """See the base class.

        Raises:
            InputError: prompt and continuation do not fit the model's context.
        """
        self.need_causal_lm("generate")
        context = getattr(self.model.config, "max_position_embeddings", None)
        if context is not None and len(prompt) + new_tokens > context:
            raise InputError(
                f"a prompt of {len(prompt)} tokens and {new_tokens} new ones do not fit the model's context of "
                f"{context}; use a shorter prompt or fewer tokens"
            )
        ids = torch.tensor([prompt], device=self.model.device)
        with evaluating(self.model):
            out = self.model.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                num_beams=1,
                max_new_tokens=new_tokens,
                pad_token_id=0,  # pads nothing: there is one row
            )
        continuation: list[int] = out[0, len(prompt) :].tolist()
        return continuation

    def server(self, directory: Path, port: int, chat_template: str | None = None) -> ServerLaunch:
        """See the base class: ``transformers serve``.

        Raises:
            InputError: an export that transformers does not load by itself.
        """
        if not self._loads_in_place(read_config(directory)):
            raise InputError(
                f"transformers loads {directory} only with help that its server does not have (packed zero points, or "
                "quantized embeddings); serve the export dequantized, or another engine"
            )
        check_temporary_path()
        template = template_of(chat_template, of_folder(directory), directory)
        files = scratch()
        folder = str(linked(directory, template, Path(files.name)))
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        command = [sys.executable, "-m", "transformers.cli.transformers", "serve", folder, "--host", LOOPBACK]
        command += ["--port", str(port), "--dtype", self.dtype, "--device", device]
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        return ServerLaunch(
            tuple(command),
            {"HF_HUB_DISABLE_UPDATE_CHECK": "1"},  # its command would ask PyPI for a newer version
            refuses=_REFUSED,
            model=folder,
            context=getattr(config, "max_position_embeddings", None),
            count=counter_of(directory, template),
            files=files,
        )

    def _loads_in_place(self, raw: dict[str, Any]) -> bool:
        """Whether transformers loads the file's own tensors, where it is exact."""
        if CONFIG_KEY not in raw:
            return True
        packed = any(packs_zero_points(group) for group in parse_config(raw).config_groups.values())
        return not packed and not raw[CONFIG_KEY].get("dequantize")

    def _settle(self, model: PreTrainedModel) -> None:
        """Finish what a plain load leaves for later."""
        quantizer: Any = getattr(model, "hf_quantizer", None)
        if quantizer is not None:
            # It would happen on the first forward pass: do it here, where its progress bar is held back.
            quantizer.compressor.decompress_model(model)
            remove_dispatch(model)  # it ties the weights to the CPU: a later `to` would bring them back there

    def _from_pretrained(self, directory: Path) -> PreTrainedModel:
        model, info = AUTO_CLASSES[self.task].from_pretrained(
            directory,
            dtype=torch_dtype(self.dtype),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        for problem in ("missing_keys", "unexpected_keys"):
            if names := sorted(info[problem]):
                raise InputError(f"transformers reports {problem} in {directory}: {', '.join(names[:3])}")
        self._settle(model)
        assert isinstance(model, PreTrainedModel)
        return model

    def _assembled(self, directory: Path, config: PreTrainedConfig) -> PreTrainedModel:
        quantization, modules, rest = read_modules(directory)
        state = dict(rest)
        delattr(config, CONFIG_KEY)
        with no_init_weights():
            model = AUTO_CLASSES[self.task].from_config(config, dtype=torch_dtype(self.dtype))
        assert isinstance(model, PreTrainedModel)
        model.tie_weights()
        apply_quantization_config(model, quantization)
        for name, local in modules.items():
            weight = decompress(dict(local), group_of(quantization, name))
            state |= {f"{name}.{part}": tensor for part, tensor in weight.items() if part != "weight_shape"}
        missing, unexpected = model.load_state_dict(state, strict=False)
        tied = {name for name in missing if _is_tied(model, name, state)}
        if wrong := sorted({*missing, *unexpected} - tied):
            raise InputError(f"{directory} does not fit its config.json: {', '.join(wrong[:3])}")
        if (directory / GENERATION).is_file():
            model.generation_config = GenerationConfig.from_pretrained(directory, local_files_only=True)
        return model


def _is_tied(model: PreTrainedModel, name: str, state: dict[str, Tensor]) -> bool:
    """Whether the parameter ``name`` was filled under another name."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return any(parameters[other] is parameters.get(name) for other in state if other in parameters)


@contextlib.contextmanager
def _quiet_bars() -> Iterator[None]:
    """Hold back compressed-tensors' progress bars, which have no switch; errors are exceptions and pass."""
    with contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
        yield
