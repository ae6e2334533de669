"""How servers are started; that they answer is in ``tests/integration/test_serve.py``."""

from __future__ import annotations

import gc
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment
from support import copy_tokenizer

from qat.checkpoint import QuantizedCheckpoint
from qat.config.check import locate
from qat.engines.base import NotAvailable
from qat.engines.chat_template import ChatTokens, counter_of, of_folder, of_gguf, template_of
from qat.engines.llama_cpp import LlamaCppEngine
from qat.engines.onnxruntime import OnnxRuntimeEngine
from qat.engines.serving import ENGINES, linked
from qat.engines.transformers import TransformersEngine
from qat.engines.vllm import VllmEngine
from qat.errors import InputError
from qat.export.compressed_tensors import CompressedTensorsExporter
from qat.export.gguf.exporter import GgufExporter
from qat.models.tokenizer import load_tokenizer
from qat.scheme import preset

MESSAGES = [
    {"role": "system", "content": "one"},
    {"role": "user", "content": [{"type": "text", "text": "t"}, {"type": "text", "text": "wo"}]},
    {"role": "assistant", "content": None},
    {"role": "user", "content": "three\n"},
]
OWN = "{{ messages }}"


@pytest.fixture
def folder(frozen: Callable[..., QuantizedCheckpoint], exported: Callable[..., Path]) -> Callable[..., Path]:
    """``folder(scheme, exporter)`` is an export of a model without a chat template."""

    def make(scheme: str = "w4a16_g32", exporter: type = CompressedTensorsExporter) -> Path:
        return exported(exporter(), frozen(preset(scheme), bos_token_id=0, eos_token_id=0))

    return make


def options(command: tuple[str, ...]) -> dict[str, str]:
    """``--name value`` pairs of a command."""
    return {word[2:]: command[place + 1] for place, word in enumerate(command[:-1]) if word.startswith("--")}


def test_plain_is_the_texts_one_a_line() -> None:
    text = template_of("plain", ChatTokens(None), Path())
    assert text is not None
    assert ImmutableSandboxedEnvironment().from_string(text).render(messages=MESSAGES) == "one\ntwo\n\nthree\n"


def test_plain_begins_as_the_tokenizer_does() -> None:
    for begins, prompt in ((True, "<s>a"), (False, "a")):
        text = template_of("plain", ChatTokens(None, bos="<s>", adds_bos=begins), Path())
        assert text is not None
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)  # as the servers have it
        assert environment.from_string(text).render(messages=[{"content": "a"}], bos_token="<s>") == prompt


def test_an_export_that_has_a_template_keeps_it() -> None:
    assert template_of(None, ChatTokens(OWN), Path()) is None


def test_an_export_without_one_asks_for_one() -> None:
    with pytest.raises(InputError, match=r"^exports/gguf has no chat template.*chat_template=plain"):
        template_of(None, ChatTokens(None), Path("exports/gguf"))


def test_a_file_is_taken_before_the_exports_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{% generation %}{{ messages[0].content }}{% endgeneration %}{% break %}")
    assert template_of(str(file), ChatTokens(OWN), Path()) == file.read_text()


def test_a_file_that_is_no_template_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("a\n{% if %}")
    with pytest.raises(InputError, match=r"mine\.jinja is not Jinja, in line 2: "):
        template_of(str(file), ChatTokens(None), Path())
    file.write_bytes(b"\xff")
    with pytest.raises(InputError, match="it is not UTF-8"):
        template_of(str(file), ChatTokens(None), Path())


def test_a_folder_and_its_gguf_say_the_same(folder: Callable[..., Path]) -> None:
    file = folder(exporter=GgufExporter)
    read, gguf = of_folder(file), of_gguf(file / "model.gguf")
    assert read.template is gguf.template is None
    assert (read.bos, read.eos, read.adds_bos) == (gguf.bos, gguf.eos, gguf.adds_bos)
    assert read.eos
    assert gguf.context == 64  # random_llama's
    settings = json.loads((file / "tokenizer_config.json").read_text())
    (file / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": OWN}))
    assert of_folder(file).template == OWN


@pytest.mark.parametrize("exporter", [CompressedTensorsExporter, GgufExporter])
def test_prompts_are_counted_as_they_are_rendered(
    exporter: type, frozen: Callable[..., QuantizedCheckpoint], tmp_path: Path
) -> None:
    """Of a tokenizer that begins each text with a token, which ``plain`` writes and which counts once."""
    source, export = tmp_path / "tokenizer", tmp_path / "export"
    source.mkdir()
    copy_tokenizer(source)
    spec = json.loads((source / "tokenizer.json").read_text())
    begin = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    spec["post_processor"]["single"].insert(0, begin)
    spec["post_processor"]["special_tokens"] = {
        "<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
    }
    (source / "tokenizer.json").write_text(json.dumps(spec))
    exporter().write(frozen(preset("w4a16_g32"), bos_token_id=0, eos_token_id=0), export, source)
    chat = of_folder(export)
    assert chat.adds_bos
    encoded = load_tokenizer(export)("def main():\n    pass\nfour five")["input_ids"]
    assert encoded.count(0) == 1
    messages = [{"role": "user", "content": "def main():\n    pass"}, {"role": "user", "content": "four five"}]
    assert counter_of(export, template_of("plain", chat, export))(messages) == len(encoded)


def test_messages_that_the_template_refuses_are_told(folder: Callable[..., Path]) -> None:
    count = counter_of(folder(), "{{ raise_exception('only users here') }}")
    with pytest.raises(InputError, match="makes no prompt of these messages: only users here"):
        count(MESSAGES)


def test_links_leave_sampling_to_the_request(tmp_path: Path) -> None:
    export, into = tmp_path / "export", tmp_path / "into"
    export.mkdir()
    into.mkdir()
    (export / "config.json").write_text('{"eos_token_id": 1, "hidden_size": 8}')
    (export / "chat_template.jinja").write_text("own")
    made = linked(export, None, into)
    assert (made / "config.json").resolve() == export / "config.json"
    assert (made / "chat_template.jinja").read_text() == "own"
    generation = json.loads((made / "generation_config.json").read_text())
    assert generation == {"eos_token_id": 1, "do_sample": True, "top_k": 0}


def test_links_take_the_stop_tokens_of_the_generation_config_and_the_template_given(tmp_path: Path) -> None:
    export, into = tmp_path / "export", tmp_path / "into"
    export.mkdir()
    into.mkdir()
    (export / "config.json").write_text('{"eos_token_id": 1}')
    (export / "generation_config.json").write_text('{"eos_token_id": [2, 3], "temperature": 0.1, "top_k": 5}')
    (export / "chat_template.jinja").write_text("own")
    made = linked(export, "given", into)
    assert json.loads((made / "generation_config.json").read_text())["eos_token_id"] == [2, 3]
    assert (made / "chat_template.jinja").read_text() == "given"
    assert (export / "chat_template.jinja").read_text() == "own"
    assert "temperature" not in json.loads((made / "generation_config.json").read_text())


def test_transformers_serves_links_on_the_loopback(folder: Callable[..., Path]) -> None:
    launch = TransformersEngine(dtype="bfloat16", device="cpu").server(folder(), 1234, "plain")
    given = options(launch.command)
    assert (given["host"], given["port"], given["dtype"], given["device"]) == ("127.0.0.1", "1234", "bfloat16", "cpu")
    assert launch.command[4] == launch.model
    assert {"stop", "frequency_penalty", "tools"} <= launch.refuses
    assert launch.context == 64  # random_llama's
    assert launch.key_variable is None  # its server takes none
    assert launch.count is not None and launch.count([{"role": "user", "content": "import os"}]) > 1
    model = Path(launch.model)
    assert (model / "model.safetensors").is_file()
    del launch
    gc.collect()
    assert not model.exists()


def test_transformers_refuses_what_its_server_cannot_load(folder: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="packed zero points.*serve the export dequantized, or another engine"):
        TransformersEngine().server(folder("w4a16_g32_asym"), 1, "plain")


def test_a_temporary_path_that_transformers_cuts_is_refused(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = folder()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a@b"))
    with pytest.raises(InputError, match="takes no path with an @.*set TMPDIR"):
        TransformersEngine().server(export, 1, "plain")


def test_llama_cpp_is_never_interrupted(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QAT_ENGINES", str(tmp_path))
    export = folder(exporter=GgufExporter)
    engine = LlamaCppEngine(threads=3, context=32, kv_cache="f16")
    with pytest.raises(NotAvailable, match=r"has no server: scripts/engines\.sh llama_cpp"):
        engine.server(export, 1, "plain")
    package = tmp_path / "llama_cpp" / "lib" / "python3.11" / "site-packages" / "starlette_context"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    launch = engine.server(export, 1234, "plain")
    given = options(launch.command)
    assert given["model"] == str((export / "model.gguf").resolve())
    assert (given["host"], given["port"], given["interrupt_requests"]) == ("127.0.0.1", "1234", "False")
    assert (given["n_ctx"], given["n_threads"], given["type_k"], given["type_v"]) == ("32", "3", "1", "1")
    told = json.loads(Path(launch.command[3]).read_text())
    assert told["eos_token"] == of_gguf(export / "model.gguf").eos
    assert "messages" in told["template"]
    assert launch.model == given["model_alias"]
    assert launch.context == 32 and launch.count is not None
    assert launch.key_variable is not None and "api_key" not in given
    longest = options(LlamaCppEngine(context=2048).server(export, 1, "plain").command)["n_ctx"]
    assert longest == "64"  # the model's own


@pytest.mark.parametrize(("scheme", "dtype"), [("w4a16_g32", "float16"), ("w8a8", "float32")])
def test_vllm_gets_a_type_that_its_kernel_takes(scheme: str, dtype: str, folder: Callable[..., Path]) -> None:
    launch = VllmEngine(context=32, kv_cache_gib=2).server(folder(scheme), 1234, "plain")
    given = options(launch.command)
    assert (given["host"], given["port"], given["dtype"], given["max-model-len"]) == ("127.0.0.1", "1234", dtype, "32")
    assert given["served-model-name"] == launch.model
    assert launch.context == 32 and launch.count is not None
    assert launch.key_variable == "VLLM_API_KEY" and "api-key" not in given
    assert "messages" in Path(given["chat-template"]).read_text()
    assert launch.environment["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert launch.environment["VLLM_NO_USAGE_STATS"] == "1"


def test_an_engine_without_a_server_names_those_that_have_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="engine=transformers, llama_cpp, vllm"):
        OnnxRuntimeEngine().server(tmp_path, 1)


def test_those_that_have_a_server_are_named(root: Path) -> None:
    targets = {path.stem: yaml.safe_load(path.read_text())["_target_"] for path in root.glob("configs/engine/*.yaml")}
    engines = {name: locate(f"engine.{name}", target, "qat.engines") for name, target in targets.items()}
    assert {name for name, made in engines.items() if made.serves} == set(ENGINES)


def test_every_engine_of_the_environment_is_told_to_be_alone(folder: Callable[..., Path]) -> None:
    launch = TransformersEngine().server(folder(), 1, "plain")
    assert launch.environment["HF_HUB_DISABLE_UPDATE_CHECK"] == "1"
    assert os.environ.get("HF_HUB_DISABLE_UPDATE_CHECK") is None
