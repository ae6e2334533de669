"""``qat serve`` as a user has it: a process, the real engine behind it, and the SDKs that programs use."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

import groq
import httpx
import openai
import psutil
import pytest
import yaml
from support import copy_tokenizer, random_llama

from qat.engines.isolated import build
from qat.engines.remote import Remote
from qat.paths import configs_dir

NAME = "demo/served"
PROMPTS = ("def main():\n", "import os", "class A", "# a list of")
TOKENS = 12
READY_SECONDS = 120


@dataclass(frozen=True)
class Case:
    """An engine, and what it serves."""

    engine: str
    scheme: str
    export: str


CASES = (
    Case("transformers", "w4a16_g32", "compressed_tensors"),
    Case("transformers", "w8a8", "compressed_tensors"),
    Case("llama_cpp", "w4a16_g32", "gguf"),
    Case("vllm", "w8a8", "compressed_tensors"),
)


@dataclass(frozen=True)
class Served:
    """A gateway that runs, and what the engine itself continues greedily."""

    engine: str
    address: str
    greedy: dict[str, str]
    process: subprocess.Popen[str]

    @property
    def groq(self) -> groq.Groq:
        return groq.Groq(base_url=self.address, api_key="any", max_retries=0)

    @property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address}/openai/v1", api_key="any", max_retries=0)


def ask(prompt: str, **options: Any) -> dict[str, Any]:
    """A request for the likeliest tokens."""
    message = {"role": "user", "content": prompt}
    return {"model": NAME, "messages": [message], "temperature": 0, "max_completion_tokens": TOKENS} | options


@pytest.fixture(scope="module")
def runs(qat: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """``runs(scheme, engine)`` is the folder of a finished run: the demo's model, or one of a head size vLLM has."""
    base = tmp_path_factory.mktemp("runs")
    made: dict[tuple[str, bool], Path] = {}

    def make(scheme: str, engine: str) -> Path:
        key = (scheme, engine == "vllm")
        if key not in made:
            words = ["model=tiny_llama"]
            if engine == "vllm":
                model = random_llama(vocab_size=1024, hidden_size=128, bos_token_id=0, eos_token_id=0)
                model.save_pretrained(base / "hf")
                copy_tokenizer(base / "hf")
                words = ["model=hf", f"model.path={base / 'hf'}", "trainer.block_size=32"]
            run = base / f"{scheme}_{engine}"
            exports = "[compressed_tensors,gguf]" if scheme == "w4a16_g32" else "[compressed_tensors]"
            words += [f"scheme={scheme}", f"export={exports}", "engine=[]", "evaluate.blocks=1", *qat.one_thread]
            outcome = qat("ptq", *words, f"run_dir={run}", cwd=base)
            assert outcome.code == 0, outcome
            made[key] = run
        return made[key]

    yield make
    shutil.rmtree(base)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case.engine}-{case.scheme}")
def served(request: pytest.FixtureRequest, qat: Any, runs: Any) -> Iterator[Served]:
    """The gateway in front of one engine."""
    case: Case = request.param
    config = yaml.safe_load((configs_dir() / "engine" / f"{case.engine}.yaml").read_text())
    engine = build(config)
    if (reason := engine.missing()) is not None:
        pytest.skip(f"{case.engine}: {reason}")
    run: Path = runs(case.scheme, case.engine)
    engine.load(run / "exports" / case.export)
    greedy = {prompt: engine.generate(prompt, TOKENS) for prompt in PROMPTS}
    if isinstance(engine, Remote):
        engine.close()
    assert len(set(greedy.values())) > 1
    words = [f"run={run}", f"engine=[{case.engine}]", f"format={case.export}", f"name={NAME}", "chat_template=plain"]
    process = qat.start("serve", *words, "gateway.port=0", cwd=run)
    try:
        yield Served(case.engine, _address(process), greedy, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGTERM)


def _address(process: subprocess.Popen[str]) -> str:
    """Where it says that it listens; it says nothing before it is ready."""
    assert process.stdout is not None
    assert process.stderr is not None
    alarm = Timer(READY_SECONDS, process.kill)
    alarm.start()
    try:
        for line in process.stdout:
            if found := re.search(r"(http://127\.0\.0\.1:\d+)/openai/v1", line):
                return found[1]
    finally:
        alarm.cancel()
    pytest.fail(f"not ready: {process.stderr.read()}")


def test_the_groq_sdk_gets_what_the_engine_continues(served: Served) -> None:
    for prompt, text in served.greedy.items():
        answer = served.groq.chat.completions.create(**ask(prompt))
        assert answer.choices[0].message.content == text
        assert answer.model == NAME
        assert answer.usage is not None
        assert answer.usage.prompt_tokens > 0
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        assert answer.usage.completion_time > 0
        assert answer.x_groq.id


def test_the_groq_sdk_streams_the_same(served: Served) -> None:
    for prompt, text in served.greedy.items():
        chunks = list(served.groq.chat.completions.create(**ask(prompt, stream=True)))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
        assert chunks[0].x_groq.id
        whole = served.groq.chat.completions.create(**ask(prompt))
        assert chunks[-1].x_groq.usage.completion_tokens == whole.usage.completion_tokens
        assert chunks[-1].x_groq.usage.prompt_tokens == whole.usage.prompt_tokens > 0
        assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_the_openai_sdk_gets_the_same(served: Served) -> None:
    prompt, text = PROMPTS[0], served.greedy[PROMPTS[0]]
    whole = served.openai.chat.completions.create(**ask(prompt))
    assert whole.choices[0].message.content == text
    stream = served.openai.chat.completions.create(**ask(prompt, stream=True, stream_options={"include_usage": True}))
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_it_lists_its_model(served: Served) -> None:
    assert [model.id for model in served.groq.models.list().data] == [NAME]
    assert [model.id for model in served.openai.models.list().data] == [NAME]


def test_errors_are_groqs_own(served: Served) -> None:
    with pytest.raises(groq.NotFoundError) as error:
        served.groq.chat.completions.create(**ask("a", model="another"))
    assert error.value.body["error"]["code"] == "model_not_found"
    with pytest.raises(groq.BadRequestError, match="'logprobs' is unsupported"):
        served.groq.chat.completions.create(**ask("a", logprobs=True))
    tool = {"type": "function", "function": {"name": "f"}}
    with pytest.raises(openai.BadRequestError, match="'tools' is unsupported by the engine"):
        served.openai.chat.completions.create(**ask("a", tools=[tool]))


def test_usage_counts_tokens_and_not_pieces(served: Served) -> None:
    """At a high temperature the model makes characters of several tokens, and tokens without a text."""
    for seed in range(3):
        answer = served.groq.chat.completions.create(**ask(PROMPTS[0], temperature=2, seed=seed))
        assert answer.usage.completion_tokens == TOKENS or answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_does_not_fit_is_refused_as_groq_does(served: Served, stream: bool) -> None:
    for request in (ask("word " * 4000, stream=stream), ask("a", stream=stream, max_completion_tokens=100_000)):
        with pytest.raises(groq.BadRequestError, match="Please reduce the length") as caught:
            served.groq.chat.completions.create(**request)
        assert caught.value.body["error"]["code"] == "context_length_exceeded"
    assert served.groq.chat.completions.create(**ask(PROMPTS[0])).choices[0].message.content


def test_the_engine_asks_for_a_key(served: Served) -> None:
    lines = [one.cmdline() for one in psutil.Process(served.process.pid).children(recursive=True)]
    port = next(words[words.index("--port") + 1] for words in lines if "--port" in words)
    status = httpx.get(f"http://127.0.0.1:{port}/v1/models", trust_env=False).status_code
    assert (status == 401) == (served.engine != "transformers")  # whose server takes no key


def test_streams_at_once_are_not_mixed(served: Served) -> None:
    async def text(client: groq.AsyncGroq, prompt: str) -> str:
        stream = await client.chat.completions.create(**ask(prompt, stream=True))
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    async def all_at_once() -> list[str]:
        async with groq.AsyncGroq(base_url=served.address, api_key="any", max_retries=0) as client:
            return await asyncio.gather(*(text(client, prompt) for prompt in PROMPTS))

    assert asyncio.run(all_at_once()) == [served.greedy[prompt] for prompt in PROMPTS]


def test_temperature_and_seed_count(served: Served) -> None:
    def text(seed: int) -> str:
        request = ask(PROMPTS[0], temperature=2, seed=seed, max_completion_tokens=24)
        return str(served.groq.chat.completions.create(**request).choices[0].message.content)

    once, again, other = text(1), text(1), text(2)
    assert once == again
    assert once != other


def test_a_signal_ends_gateway_and_engine(qat: Any, runs: Any) -> None:
    run = runs("w4a16_g32", "transformers")
    process = qat.start("serve", f"run={run}", "name=a", "chat_template=plain", "gateway.port=0", cwd=run)
    address = _address(process)
    engines = psutil.Process(process.pid).children(recursive=True)
    assert engines
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (0, 130), errors
    assert "Traceback" not in errors
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")
    assert [engine for engine in engines if engine.is_running()] == []


def test_a_killed_gateway_leaves_no_engine_behind(qat: Any, runs: Any) -> None:
    run = runs("w4a16_g32", "transformers")
    process = qat.start("serve", f"run={run}", "name=a", "chat_template=plain", "gateway.port=0", cwd=run)
    _address(process)
    engines = psutil.Process(process.pid).children(recursive=True)
    assert engines
    process.kill()
    process.communicate()
    assert psutil.wait_procs(engines, timeout=30)[1] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["engine=[transformers,llama_cpp]"], "one engine serves, and engine=[transformers,llama_cpp] names 2"),
        (["engine=[]"], "one engine serves"),
        (
            ["engine=[onnxruntime]"],
            "engine=onnxruntime has no server that qat starts; serve with engine=transformers, llama_cpp, vllm",
        ),
        (["format=gguf"], "engine transformers loads no format gguf; it loads compressed_tensors, dequantized"),
        (["format=dequantized"], "write one with: qat export run="),
        ([], "has no chat template, as base models do not; say how messages become a prompt with chat_template=plain"),
        (["chat_template=absent.jinja"], "absent.jinja cannot be read (No such file or directory)"),
    ],
)
def test_what_cannot_be_served_is_told_by_the_fix(qat: Any, runs: Any, words: list[str], said: str) -> None:
    run = runs("w4a16_g32", "transformers")
    assert said in qat("serve", f"run={run}", "gateway.port=0", *words, cwd=run).error()
