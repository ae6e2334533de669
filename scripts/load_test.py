"""Measure what the gateway adds to the latency of a token, and write it to docs/serving.md and docs/serving.json.

python scripts/load_test.py                                        a minute of 200 clients, twice each way
python scripts/load_test.py --together                             the same, each token of all streams at once
python scripts/load_test.py --seconds 5 --rounds 1 --no-docs       a short try

Three processes: a scripted engine that streams at a fixed rate (scripts/fixed_rate_engine.py), the gateway, and this
one, which is all clients. Rounds go to the engine directly and through the gateway in turn, with the same clients. Each
token carries the time at which the engine wrote it. Exit code 1: a stream was lost or mixed, or the median is more than
2 ms where tokens are spread over time. Of tokens that come all at once each waits for those before it, in the engine
itself, the gateway and the client: that is measured, in a place of its own, and nothing is promised.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import uvicorn
from pydantic import BaseModel, ConfigDict
from rich.console import Console

from qat.engines.serving import ServerLaunch
from qat.errors import InputError
from qat.report.metrics import Environment
from qat.serve.gateway.app import build_app
from qat.serve.gateway.options import Gateway
from qat.serve.process import EngineServer, free_port

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
MOST_MEDIAN_MS = 2.0
START_SECONDS = 60.0
START = 1.0
"""Seconds over which the clients of a round come."""
QUANTILES = {"median": 50, "p95": 95, "p99": 99}


class Round(BaseModel):
    """One round of all clients.

    Attributes:
        way: direct or gateway.
        tokens: that came.
        lost: streams that lack a token or their end.
        mixed: streams with a token of another one.
        latency_ms: from the engine's writing to the client's reading, by quantile.
        cpu_percent: of the gateway's process during the round, 100 being one core; None: it was not asked.
        memory_mib: its resident memory at the end.
    """

    model_config = ConfigDict(extra="forbid")

    way: str
    tokens: int
    lost: int
    mixed: int
    latency_ms: dict[str, float]
    cpu_percent: float | None = None
    memory_mib: float | None = None


class Result(BaseModel):
    """All rounds, and what they come to.

    Attributes:
        command: what was typed.
        clients: at once.
        rate: tokens a second of each stream.
        seconds: of each round.
        together: whether all streams' tokens come at the same moment, and not spread over their interval.
        added_ms: quantiles through the gateway, less the same quantiles directly; over all rounds.
        rounds: in the order in which they ran.
        environment: what ran it.
    """

    model_config = ConfigDict(extra="forbid")

    command: str
    clients: int
    rate: float
    seconds: float
    together: bool
    added_ms: dict[str, float]
    rounds: list[Round]
    environment: Environment

    @property
    def name(self) -> str:
        """Of its file in docs, and of its place in the page."""
        return "serving_together" if self.together else "serving"

    @property
    def problems(self) -> list[str]:
        """What must not be; empty as it should be."""
        found = [f"{one.way}: {one.lost} streams lost" for one in self.rounds if one.lost]
        found += [f"{one.way}: {one.mixed} streams mixed" for one in self.rounds if one.mixed]
        if not self.together and self.added_ms["median"] > MOST_MEDIAN_MS:
            found.append(
                f"the median of the added latency is {self.added_ms['median']:.2f} ms, above {MOST_MEDIAN_MS:g}"
            )
        return found


async def stream(port: int, path: str, name: str, delay: float, tokens: int) -> tuple[list[float], bool, bool]:
    """Latencies in ms of one stream's tokens; whether it was lost, and whether it was mixed with another.

    HTTP by hand, since a client library would use more of the two cores than the gateway: a server-sent event is one
    line that begins with ``data:``, and lines of the chunked encoding do not.
    """
    await asyncio.sleep(delay)
    body = json.dumps({"model": "fixed", "messages": [{"role": "user", "content": name}], "stream": True}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    latencies: list[float] = []
    whole = mixed = False
    try:
        writer.write(head.encode() + f"content-length: {len(body)}\r\n\r\n".encode() + body)
        while line := await reader.readline():
            if line.startswith(b"data: {"):
                now = time.monotonic_ns()
                for choice in json.loads(line[6:])["choices"]:
                    if content := choice["delta"].get("content"):
                        said, index, written = content.rstrip(";").split(" ")
                        mixed = mixed or said != name or int(index) != len(latencies)
                        latencies.append((now - int(written)) / 1e6)
            whole = whole or line.startswith(b"data: [DONE]")
    except OSError:
        whole = False
    finally:
        writer.close()
    return latencies, not whole or len(latencies) != tokens, mixed


async def clients(options: argparse.Namespace, port: int, path: str) -> list[tuple[list[float], bool, bool]]:
    """All streams of one round."""
    tokens = round(options.rate * options.seconds)
    names = (f"stream-{index}" for index in range(options.clients))
    return await asyncio.gather(
        *(stream(port, path, name, index * START / options.clients, tokens) for index, name in enumerate(names))
    )


def run(options: argparse.Namespace, log: Console) -> Iterator[tuple[Round, list[float]]]:
    """Every round with all its latencies, the engine's own ones first."""
    engine_port, gateway_port = free_port(), free_port()
    tokens = round(options.rate * options.seconds)
    engine = [
        str(HERE / "fixed_rate_engine.py"),
        str(engine_port),
        str(options.rate),
        str(tokens),
        "0" if options.together else "1",
    ]
    gateway = [str(Path(__file__).resolve()), "--gateway", str(gateway_port), str(engine_port), str(options.clients)]
    paths = {"PYTHONPATH": str(HERE.parent)}
    with ExitStack() as stack:
        for name, port, words, health in (
            ("engine", engine_port, engine, "/health"),
            ("gateway", gateway_port, gateway, "/health/live"),
        ):
            launch = ServerLaunch((sys.executable, *words), paths, health=health)
            server = stack.enter_context(EngineServer(launch, port, name))
            server.wait_until_healthy(START_SECONDS, log)
        process = listener(gateway_port)
        for number in range(2 * options.rounds):
            through = number % 2 == 1
            way, port, path = ("direct", engine_port, "/v1") if not through else ("gateway", gateway_port, "/openai/v1")
            process.cpu_percent()
            found = asyncio.run(clients(options, port, f"{path}/chat/completions"))
            latencies = [latency for one, _, _ in found for latency in one]
            one = Round(
                way=way,
                tokens=len(latencies),
                lost=sum(lost for _, lost, _ in found),
                mixed=sum(mixed for _, _, mixed in found),
                latency_ms=quantiles(latencies),
                cpu_percent=process.cpu_percent() if through else None,
                memory_mib=process.memory_info().rss / 2**20 if through else None,
            )
            log.print(one.model_dump_json(), markup=False)
            yield one, latencies


def listener(port: int) -> psutil.Process:
    """The child of this process that listens on ``port``."""
    return next(
        one
        for one in psutil.Process().children(recursive=True)
        if any(open_one.laddr.port == port for open_one in one.net_connections() if open_one.status == "LISTEN")
    )


def quantiles(latencies: Sequence[float]) -> dict[str, float]:
    """:data:`QUANTILES` in ms; NaN without any token."""
    if len(latencies) < 2:
        return dict.fromkeys(QUANTILES, float("nan"))
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return {name: round(cuts[percent - 1], 3) for name, percent in QUANTILES.items()}


def markdown(result: Result) -> str:
    """What goes between the markers of ``docs/serving.md``."""
    machine = result.environment
    how = "all at the same moment" if result.together else "spread evenly over the interval"
    streams = f"{result.clients} streams at once, {result.rate:g} tokens a second each, {how}"
    lines = [
        f"Made by `{result.command}` at commit {machine.commit or 'unknown'}",
        f"on {machine.platform}, {machine.cpus} CPUs, Python {machine.python}: {streams},",
        f"for {result.seconds:g} seconds a round.",
        "",
        "| round | tokens | streams lost | mixed | median ms | p95 ms | p99 ms | gateway's CPU | its memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in result.rounds:
        numbers = " | ".join(f"{one.latency_ms[name]:.2f}" for name in QUANTILES)
        cpu = "–" if one.cpu_percent is None else f"{one.cpu_percent:.0f} % of a core"
        memory = "–" if one.memory_mib is None else f"{one.memory_mib:.0f} MiB"
        lines.append(f"| {one.way} | {one.tokens:,} | {one.lost} | {one.mixed} | {numbers} | {cpu} | {memory} |")
    added = ", ".join(f"{name} {result.added_ms[name]:+.2f} ms" for name in QUANTILES)
    return "\n".join([*lines, "", f"**Added by the gateway to the latency of a token: {added}.**"])


def insert(page: str, part: str, name: str) -> str:
    """``page`` with ``part`` between the markers of ``name``.

    Raises:
        InputError: the page does not have both markers once.
    """
    begin, end = (f"<!-- {which}: scripts/load_test.py {name} -->" for which in ("begin", "end"))
    if page.count(begin) != 1 or page.count(end) != 1:
        raise InputError(f"the page needs the lines '{begin}' and '{end}', once each")
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{part}\n{end}{rest.partition(end)[2]}"


def run_gateway(port: int, upstream: int, concurrent: int) -> None:
    """The gateway in this process, as ``qat serve`` runs it."""
    options = Gateway(port=port, max_concurrent=concurrent)
    app = build_app(f"http://127.0.0.1:{upstream}", options, model="fixed", name="fixed")
    uvicorn.run(app, port=port, log_config=None, access_log=False, ws="none", backlog=2048)


def parse(words: list[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200, help="streams at once")
    parser.add_argument("--rate", type=float, default=10.0, help="tokens a second of each stream")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=2, help="of each of the two ways")
    parser.add_argument("--together", action="store_true", help="tokens of all streams at the same moment")
    parser.add_argument("--no-docs", action="store_true", help="leave docs alone")
    parser.add_argument("--gateway", type=int, nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    """Run what the command line asks for."""
    options = parse(words)
    if options.gateway:
        run_gateway(*options.gateway)
        return 0
    latencies: dict[str, list[float]] = {"direct": [], "gateway": []}
    rounds = []
    for one, found in run(options, Console(stderr=True, width=200)):
        rounds.append(one)
        latencies[one.way] += found
    from qat.report.environment import environment  # imports torch, which is not to be in the gateway's memory

    direct, through = quantiles(latencies["direct"]), quantiles(latencies["gateway"])
    result = Result(
        command=shlex.join(["python", "scripts/load_test.py", *words]),
        clients=options.clients,
        rate=options.rate,
        seconds=options.seconds,
        together=options.together,
        added_ms={name: round(through[name] - direct[name], 3) for name in QUANTILES},
        rounds=rounds,
        environment=environment(),
    )
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(markdown(result), markup=False, highlight=False)
    if not options.no_docs:
        (DOCS / f"{result.name}.json").write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")
        page = DOCS / "serving.md"
        page.write_text(insert(page.read_text(encoding="utf-8"), markdown(result), result.name), encoding="utf-8")
    for problem in result.problems:
        console.print(problem, style="bold red", markup=False)
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
