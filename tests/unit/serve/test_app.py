"""The gateway over real HTTP: its dialect, who may ask, and how much at once."""

from __future__ import annotations

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from scripted_engine import CRASH, GATE, LIMIT, chunk, comes_true, default

from qat.errors import InputError

BASE = "/openai/v1"
MESSAGES = [{"role": "user", "content": "one two three"}]


def ask(address: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    body = {"model": "tiny", "messages": MESSAGES} | fields
    place = f"{address}{BASE}/chat/completions"
    return httpx.post(place, json=body, headers=headers, timeout=LIMIT, trust_env=False)


def error(response: httpx.Response) -> dict[str, str]:
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error"} and {"message", "type"} <= body["error"].keys() <= {"message", "type", "code"}
    return body["error"]


def events(response: httpx.Response) -> list[Any]:
    """Data of a stream's events, the last one being [DONE]."""
    assert response.headers["content-type"].startswith("text/event-stream")
    found = re.findall(r"^data: (.*)$", response.text, re.MULTILINE)
    assert found[-1] == "[DONE]"
    return [json.loads(data) for data in found[:-1]]


def metric(address: str, name: str, **labels: str) -> float:
    text = httpx.get(f"{address}/metrics", trust_env=False).text
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())


def test_a_whole_answer_has_groqs_fields_and_no_others(gateway) -> None:
    answer = ask(gateway()).json()
    usage = answer.pop("usage")
    assert answer.pop("x_groq")["id"].startswith("req_")
    assert answer == {
        "id": "chatcmpl-engine",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "tiny",
        "system_fingerprint": None,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "one two three"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "service_tier": "on_demand",
    }
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (7, 3, 10)
    assert usage["total_time"] == pytest.approx(usage["prompt_time"] + usage["completion_time"], abs=1e-6)
    assert usage["prompt_time"] > 0 and usage["queue_time"] >= 0


def test_a_stream_has_the_id_first_and_the_usage_last(gateway, engine) -> None:
    got = events(ask(gateway(), stream=True, seed=5))
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in got) == "one two three"
    assert {one["id"] for one in got} == {"chatcmpl-engine"} and {one["model"] for one in got} == {"tiny"}
    assert got[0]["x_groq"].keys() == {"id"}
    assert not any("x_groq" in one for one in got[1:-1])
    assert got[-1]["choices"][0]["finish_reason"] == "stop"
    last = got[-1]["x_groq"]
    assert last["id"] == got[0]["x_groq"]["id"] and last["seed"] == 5
    assert last["usage"]["completion_tokens"] == 3 and last["usage"]["prompt_tokens"] == 7
    times = last["usage"]
    assert times["total_time"] == pytest.approx(times["prompt_time"] + times["completion_time"], abs=1e-6)
    assert engine.received[0]["stream_options"] == {"include_usage": True}


def test_usage_as_openai_streams_it_comes_if_asked_for(gateway) -> None:
    *_, last, usage = events(ask(gateway(), stream=True, stream_options={"include_usage": True}))
    assert last["choices"] and "usage" not in last
    assert usage["choices"] == [] and usage["usage"] == last["x_groq"]["usage"]


def words(messages: list[dict[str, str]]) -> int:
    if messages[0]["content"] == "impossible":
        raise InputError("no prompt of this")
    return len(messages[0]["content"].split(" "))


@pytest.mark.parametrize("stream", [False, True])
def test_the_gateway_counts_where_the_engine_counts_nothing(gateway, engine, stream) -> None:
    engine.script = [chunk({"content": "a"}), chunk({"content": "b"}), chunk({"content": ""}), chunk({}, "length")]
    address = gateway(behind={"refuses": frozenset({"stream_options"}), "count": words})
    response = ask(address, stream=stream)
    last = events(response)[-1] if stream else response.json()
    assert last["choices"][0]["finish_reason"] == "length"
    usage = last["x_groq"]["usage"] if stream else last["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 2, 5)
    assert "stream_options" not in engine.received[0]
    assert metric(address, "qat_gateway_tokens_total", kind="prompt") == 3


def test_the_engines_count_is_taken_before_the_gateways(gateway) -> None:
    assert ask(gateway(behind={"count": words})).json()["usage"]["prompt_tokens"] == 7


def test_a_prompt_that_does_not_fit_never_reaches_the_engine(gateway, engine) -> None:
    address = gateway(behind={"count": words, "context": 5})
    assert ask(address, max_completion_tokens=2).status_code == ask(address).status_code == 200
    assert [one["max_tokens"] for one in engine.received] == [2, 2], "what is left, if nothing is said"
    for fields in ({"max_completion_tokens": 3}, {"messages": [{"role": "user", "content": "1 2 3 4 5"}]}):
        for stream in (False, True):
            told = error(ask(address, stream=stream, **fields))
            assert told["code"] == "context_length_exceeded" and told["type"] == "invalid_request_error"
            assert "reduce the length of the messages or completion" in told["message"]
            assert "the context of 5" in told["message"]
    response = ask(address, messages=[{"role": "user", "content": "impossible"}])
    assert response.status_code == 400 and error(response)["message"] == "no prompt of this"
    assert len(engine.received) == 2


def test_the_engines_own_key_is_sent_and_never_told(gateway, engine, caplog) -> None:
    engine.key = "engines-secret"
    address = gateway(behind={"engine_key": "engines-secret"})
    assert ask(address).status_code == 200
    assert httpx.get(f"{address}/health", trust_env=False).status_code == 200
    other = gateway(behind={"engine_key": "wrong-secret"})
    response = ask(other)
    assert response.status_code == 502 and "Invalid API key" in error(response)["message"]
    assert httpx.get(f"{other}/health", trust_env=False).status_code == 503
    assert "secret" not in caplog.text + response.text


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([chunk({"content": "a"}), CRASH], "connection to the engine broke"),
        ([chunk({"content": "a"})], "ended the stream before the answer"),
        ([b"data: [DONE]\n\n"], "ended the stream before the answer"),
        ([b"data: {]\n\n"], "not JSON"),
        ([b'data: {"choices": 3}\n\n'], "no list of choices"),
        ([b'data: {"error": "a "quoted" word"}\n\n'], 'a "quoted" word'),
    ],
)
def test_half_an_answer_is_none_to_a_client_that_does_not_stream(gateway, engine, script, reason) -> None:
    engine.script = script
    response = ask(gateway())
    assert response.status_code == 502 and reason in error(response)["message"]


def test_what_a_stream_cannot_go_on_for_is_said_in_it(gateway, engine) -> None:
    address = gateway()
    for script, reason in (
        ([chunk({"content": "a"}), CRASH], "connection to the engine broke"),
        ([chunk({"content": "a"})], "ended the stream before the answer"),
        ([chunk({"content": "a"}), b"data: {]\n\n"], "not JSON"),
        ([chunk({"content": "a"}), b'data: {"error": {"message": "out of memory"}}\n\n'], "out of memory"),
        ([chunk({"content": "a"}), b'data: {"error": "a "quoted" word"}\n\n'], 'a "quoted" word'),
    ):
        engine.script = script
        first, broken, raised = events(ask(address, stream=True))
        assert first["choices"][0]["delta"] == {"content": "a"}
        assert broken["choices"] == [] and reason in broken["x_groq"]["error"]
        assert raised["error"]["message"] == broken["x_groq"]["error"]


@pytest.mark.parametrize(
    ("status", "body", "told", "words"),
    [
        (400, {"error": {"message": "too long for engine/model"}}, 400, "too long for tiny"),
        (422, {"detail": "unexpected field"}, 400, "unexpected field"),
        (404, {"object": "error", "message": "no such model"}, 400, "no such model"),
        (500, {"error": {"message": "bang"}}, 502, "status 500: bang"),
        (503, {"error": "busy"}, 503, "overloaded"),
        (200, {"choices": []}, 502, "is no stream"),
        (200, {"error": {"message": "bang"}}, 502, "is no stream: bang"),
    ],
)
def test_the_engines_errors_are_told_in_groqs_form(gateway, engine, status, body, told, words) -> None:
    engine.answer = (status, body)
    response = ask(gateway())
    assert response.status_code == told and words in error(response)["message"]


def test_an_engine_that_is_not_there(gateway) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = gateway(upstream=f"http://127.0.0.1:{taken.getsockname()[1]}")
        for stream in (False, True):
            response = ask(address, stream=stream)
            assert response.status_code == 503 and error(response)["type"] == "service_unavailable"
        assert httpx.get(f"{address}/health", trust_env=False).status_code == 503
        assert httpx.get(f"{address}/health/live", trust_env=False).status_code == 200


def test_health_is_the_engines_too(gateway, engine) -> None:
    address = gateway()
    assert httpx.get(f"{address}/health", trust_env=False).json() == {"gateway": "ok", "engine": "ok"}
    engine.health = 503
    assert httpx.get(f"{address}/health", trust_env=False).status_code == 503


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"logprobs": True}, 400, "property 'logprobs' is unsupported"),
        ({"top_logprobs": 2}, 400, "property 'top_logprobs' is unsupported"),
        ({"logit_bias": {"1": 2}}, 400, "property 'logit_bias' is unsupported"),
        ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, 400, "property 'messages.0.name'"),
        ({"n": 2}, 400, "'n': 2 is unsupported"),
        ({"model": "tinny"}, 404, "The model `tinny` does not exist.*did you mean 'tiny'"),
        ({"temprature": 1}, 400, "property 'temprature' is unsupported; did you mean 'temperature'"),
    ],
)
def test_refusals(gateway, engine, fields, status, words) -> None:
    response = ask(gateway(), **fields)
    assert response.status_code == status and re.search(words, error(response)["message"])
    assert not engine.received
    assert "retry-after" not in response.headers


def test_an_unknown_model_has_groqs_code(gateway) -> None:
    told = error(ask(gateway(), model="other"))
    assert told["code"] == "model_not_found" and told["type"] == "invalid_request_error"


def test_models_and_aliases(gateway, engine) -> None:
    address = gateway()
    models = httpx.get(f"{address}{BASE}/models", trust_env=False).json()["data"]
    assert [one["id"] for one in models] == ["tiny", "llama-3.1-8b-instant"]
    assert ask(address, model="llama-3.1-8b-instant").json()["model"] == "llama-3.1-8b-instant"
    assert engine.received[0]["model"] == "engine/model"
    assert httpx.get(f"{address}{BASE}/models/tiny", trust_env=False).json() == models[0]
    assert httpx.get(f"{address}{BASE}/models/a/b", trust_env=False).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", f"{BASE}/embeddings", 404, "not_served"),
        ("GET", f"{BASE}/files/file_1", 404, "not_served"),
        ("POST", f"{BASE}/batches", 404, "not_served"),
        ("GET", f"{BASE}/chat/completions", 405, None),
        ("GET", "/v1/models", 404, "unknown_url"),
    ],
)
def test_other_places_answer_in_groqs_form(gateway, method, path, status, code) -> None:
    response = httpx.request(method, f"{gateway()}{path}", trust_env=False)
    assert response.status_code == status and error(response).get("code") == code


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[1]", b"[" * 100_000, b'{"n": NaN}', b'{"model": "tiny"}']
)
def test_malformed_bodies(gateway, engine, content) -> None:
    place = f"{gateway()}{BASE}/chat/completions"
    response = httpx.post(place, content=content, headers={"content-type": "application/json"}, trust_env=False)
    assert response.status_code == 400 and error(response)["type"] == "invalid_request_error"
    assert not engine.received


def test_a_form_of_a_web_page_is_refused(gateway, engine) -> None:
    place = f"{gateway()}{BASE}/chat/completions"
    response = httpx.post(place, content=b"{}", headers={"content-type": "text/plain"}, trust_env=False)
    assert response.status_code == 415 and error(response) and not engine.received


def test_huge_bodies(gateway, engine) -> None:
    address = gateway(max_request_bytes=1000)
    assert ask(address).status_code == 200
    for size in (1000, 10_000):
        response = ask(address, messages=[{"role": "user", "content": "x" * size}])
        assert response.status_code == 413 and error(response)["code"] == "request_too_large"
    assert len(engine.received) == 1


def test_a_key_is_needed_where_there_is_one(gateway, engine, caplog) -> None:
    address = gateway(key="secret-of-mine")
    for header in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "secret-of-mine"},
        {"authorization": "Bearer é"},
    ):
        response = ask(address, headers={name: value.encode("latin-1") for name, value in header.items()})
        assert response.status_code == 401 and error(response)["code"] == "invalid_api_key"
    assert not engine.received
    assert ask(address, headers={"authorization": "Bearer secret-of-mine"}).status_code == 200
    assert httpx.get(f"{address}/metrics", trust_env=False).status_code == 401
    assert httpx.get(f"{address}/health", trust_env=False).status_code == 200
    assert "secret-of-mine" not in caplog.text


def test_without_a_key_the_host_is_a_loopback_name(gateway, engine) -> None:
    address = gateway()
    assert ask(address, headers={"host": f"localhost:{urlsplit(address).port}"}).status_code == 200
    response = ask(address, headers={"host": "evil.example"})
    assert response.status_code == 403 and error(response) and len(engine.received) == 1


def test_no_cors(gateway) -> None:
    response = ask(gateway(), headers={"origin": "http://evil.example"})
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_engines_work(gateway, engine, stream) -> None:
    address = gateway(max_concurrent=1)
    engine.script = [chunk({"content": "a"}), GATE, chunk({}, "stop")]
    place, body = f"{address}{BASE}/chat/completions", {"model": "tiny", "messages": MESSAGES, "stream": stream}
    with httpx.Client(trust_env=False, timeout=LIMIT) as client:
        if stream:
            with client.stream("POST", place, json=body) as response:
                assert b'"a"' in next(response.iter_raw())
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(place, json=body, timeout=httpx.Timeout(LIMIT, read=0.3))
    assert comes_true(lambda: engine.left == 1), "the engine works on"
    assert comes_true(lambda: metric(address, "qat_gateway_requests_total", status="499") == 1)
    engine.script = None
    assert ask(address).status_code == 200  # its slot is free again


def test_too_many_at_once_is_429_with_retry_after(gateway, engine) -> None:
    address = gateway(max_concurrent=1, max_waiting=1)
    engine.script = [GATE, *default(["a"])]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, address)
        assert comes_true(lambda: metric(address, "qat_gateway_running") == 1)
        flex = ask(address, service_tier="flex")
        assert flex.status_code == 498 and error(flex)["code"] == "capacity_exceeded"
        second = pool.submit(ask, address)
        assert comes_true(lambda: metric(address, "qat_gateway_waiting") == 1)
        third = ask(address)
        assert third.status_code == 429 and error(third)["code"] == "rate_limit_exceeded"
        assert int(third.headers["retry-after"]) >= 1
        engine.opened.set()
        assert first.result().status_code == second.result().status_code == 200
        assert second.result().json()["usage"]["queue_time"] > 0


def test_requests_a_day(gateway, engine) -> None:
    address = gateway(requests_per_day=2)
    headers = ask(address).headers
    assert headers["x-ratelimit-limit-requests"] == "2" and headers["x-ratelimit-remaining-requests"] == "1"
    assert re.fullmatch(r"11h59m59(\.\d+)?s|12h0m0s", headers["x-ratelimit-reset-requests"])
    assert ask(address, stream=True).headers["x-ratelimit-remaining-requests"] == "0"
    response = ask(address)
    assert response.status_code == 429 and error(response)["type"] == "requests"
    assert 43_000 < int(response.headers["retry-after"]) <= 43_200
    assert len(engine.received) == 2


def test_tokens_a_minute(gateway, engine) -> None:
    address = gateway(tokens_per_minute=15)
    assert ask(address).headers["x-ratelimit-remaining-tokens"] == "5"
    events(ask(address, stream=True))  # may go 5 below
    response = ask(address)
    assert response.status_code == 429 and error(response)["type"] == "tokens"
    assert response.headers["x-ratelimit-remaining-tokens"] == "0" and len(engine.received) == 2


def test_no_limit_no_header(gateway) -> None:
    assert not [name for name in ask(gateway()).headers if name.startswith("x-ratelimit") or name == "retry-after"]


def test_the_time_limit(gateway, engine) -> None:
    address = gateway(time_limit=0.3)
    engine.script = [chunk({"content": "a"}), GATE]
    response = ask(address)
    assert response.status_code == 504 and response.headers["x-should-retry"] == "false" and error(response)
    _, broken, _ = events(ask(address, stream=True))
    assert "time is up" in broken["x_groq"]["error"]
    assert comes_true(lambda: engine.left == 2)


def test_streams_at_once_are_not_mixed(gateway, engine) -> None:
    address = gateway(max_concurrent=20)

    def one(number: int) -> str:
        content = " ".join(f"{number}-{index}" for index in range(50))
        got = events(ask(address, stream=True, messages=[{"role": "user", "content": content}]))
        assert "".join(one["choices"][0]["delta"].get("content", "") for one in got) == content
        return got[0]["x_groq"]["id"]

    with ThreadPoolExecutor(20) as pool:
        assert len(set(pool.map(one, range(20)))) == 20
    assert metric(address, "qat_gateway_tokens_total", kind="completion") == 1000
    assert comes_true(lambda: metric(address, "qat_gateway_running") == 0)


def test_a_client_that_does_not_read_does_not_fill_the_memory(gateway, engine) -> None:
    address = gateway(max_concurrent=1, time_limit=2.0)
    engine.script = [chunk({"content": "x" * 100_000})] * 1000
    host, port = urlsplit(address).hostname, urlsplit(address).port
    body = json.dumps({"model": "tiny", "messages": MESSAGES, "stream": True}).encode()
    head = f"POST {BASE}/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
    with socket.create_connection((host, port)) as client:
        client.sendall(head.encode() + f"content-length: {len(body)}\r\n\r\n".encode() + body)
        # The engine could not write all of it, so it waits, until the time is up and its work is cancelled.
        assert comes_true(lambda: engine.left == 1)
    engine.script = None
    assert ask(address).status_code == 200


def test_at_the_end_streams_finish_and_nobody_new_is_let_in(gateway, engine) -> None:
    address = gateway(shutdown_seconds=LIMIT)
    engine.script = [chunk({"content": "a"}), GATE, chunk({"content": "b"}), chunk({}, "stop")]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, address, stream=True)
        assert comes_true(lambda: metric(address, "qat_gateway_running") == 1)
        gateway.server.should_exit = True

        def refused() -> bool:
            try:
                httpx.get(f"{address}/health/live", trust_env=False)
            except httpx.ConnectError:
                return True
            return False

        assert comes_true(refused)
        engine.opened.set()
        got = events(running.result())
    assert [one["choices"][0]["finish_reason"] for one in got] == [None, None, "stop"]


def test_a_stream_that_outlasts_the_end_says_so(gateway, engine) -> None:
    address = gateway(shutdown_seconds=1.0)
    engine.script = [chunk({"content": "a"}), GATE]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, address, stream=True)
        assert comes_true(lambda: metric(address, "qat_gateway_running") == 1)
        gateway.server.should_exit = True
        assert "shuts down" in events(running.result())[1]["x_groq"]["error"]
    assert comes_true(lambda: engine.left == 1)
