"""The way to AWS: one client a service, a call at a time, tried again where that may help."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Lock
from typing import Any, Protocol

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.text import Text

from qat.deploy.aws.calls import Call, Section
from qat.deploy.aws.errors import AwsError, redact, translate
from qat.deploy.aws.waiting import Clock, Pauses
from qat.deploy.rehearsal import rehearse
from qat.errors import InputError, nearest

SOON = Pauses(first=1.0, longest=20.0, total=90.0)
"""For what passes by itself: throttling, a dropped connection."""

_CONNECT_SECONDS, _READ_SECONDS = 10, 120


class Aws:
    """Sends calls, or in a dry run shows them and sends none.

    botocore's own retries are off: they sleep where no test and no progress bar sees it, and give up after seconds.
    :meth:`send` tries again instead, with a message.

    Args:
        region: of every client.
        log: where waits and results are told.
        profile: of the AWS configuration.
        endpoints: service -> URL in place of AWS's.
        dry_run: show every call (see :mod:`qat.deploy.rehearsal`), send none.
        clock: see :class:`~qat.deploy.aws.waiting.Clock`.
        connections: kept open to a service.
    """

    def __init__(
        self,
        region: str,
        log: Console,
        profile: str | None = None,
        endpoints: Mapping[str, str] | None = None,
        dry_run: bool = False,
        clock: Clock | None = None,
        connections: int = 10,
    ) -> None:
        self.region, self.log, self.dry_run, self.clock = region, log, dry_run, clock or Clock()
        self._profile, self._endpoints, self._connections = profile, dict(endpoints or {}), connections
        self._session: Any = None
        self._clients: dict[str, Any] = {}
        self._secrets: set[str] = set()
        self._lock = Lock()

    def send(
        self,
        call: Call,
        rehearsed: Mapping[str, Any] | None = None,
        pauses: Pauses = SOON,
        again: Callable[[AwsError], bool] = lambda error: error.transient,
    ) -> dict[str, Any]:
        """Send ``call`` and return AWS's answer; a body in it is read whole.

        Args:
            call: is checked first.
            rehearsed: what a dry run takes for the answer.
            pauses: between attempts.
            again: which refusals are worth another attempt.

        Raises:
            InputError: parameters that AWS does not take, or credentials that are missing, wrong or expired.
            AwsError: AWS refused, or could not be reached, in spite of every attempt.
        """
        call.check()
        if self.dry_run:
            rehearse(str(call))
            return dict(rehearsed or {})
        waits = pauses.of(self.clock)
        while True:
            try:
                return self._once(call)
            except AwsError as error:
                wait = next(waits, None) if again(error) else None
                if wait is None:
                    raise
                self.say(f"{call.name}: {error.code}, trying again in {wait:.0f} s", "yellow")
                self.clock.sleep(wait)

    def find(self, call: Call, rehearsed: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """As :meth:`send`; None where what is asked for does not exist. A dry run takes it for absent by default."""
        try:
            answer = self.send(call, rehearsed)
        except AwsError as error:
            if error.absent:
                return None
            raise
        return None if self.dry_run and rehearsed is None else answer

    def remove(self, call: Call) -> bool:
        """Send a deletion; False where there was nothing left to delete."""
        return self.find(call, {}) is not None

    def say(self, line: str, style: str = "") -> None:
        """Tell ``line`` as it is, but for secrets."""
        self.log.print(Text(redact(line, self._known_secrets()), style), soft_wrap=True)

    def _known_secrets(self) -> frozenset[str]:
        """The credentials of now, which boto3 renews on its way, and those of before: an answer may quote either."""
        with self._lock:
            held = None if self._session is None else self._session.get_credentials()
            if held is not None:
                with suppress(BotoCoreError, ClientError):  # they cannot be renewed now, which the next call says
                    self._secrets |= {secret for secret in held.get_frozen_credentials() if isinstance(secret, str)}
            return frozenset(filter(None, self._secrets))

    def _once(self, call: Call) -> dict[str, Any]:
        parameters, body = dict(call.parameters), None
        for name, value in call.parameters.items():
            if isinstance(value, Section):
                parameters[name] = body = value.open()
        try:
            client = self._client(call.service)
            self._known_secrets()  # those that sign this call may be gone when its answer comes
            answer: dict[str, Any] = getattr(client, xform_name(call.operation))(**parameters)
            return {name: _whole(value) for name, value in answer.items()}
        except (BotoCoreError, ClientError, OSError) as error:
            raise translate(error, call, self._known_secrets()) from None
        finally:
            if body is not None:
                body.close()

    def _client(self, service: str) -> Any:
        with self._lock:  # a session is not thread-safe, a client is
            if service not in self._clients:
                self._clients[service] = self._connect(service)
            return self._clients[service]

    def _connect(self, service: str) -> Any:
        if self._session is None:
            self._session = boto3.Session(profile_name=self._profile, region_name=self.region)
        endpoint = self._endpoints.get(service)
        config = Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            retries={"total_max_attempts": 1},
            max_pool_connections=self._connections,
            s3={"addressing_style": "path" if endpoint else "auto"},
        )
        try:
            return self._session.client(service, endpoint_url=endpoint, config=config)
        except ValueError as error:
            told = "" if "@" in str(endpoint) else f" '{endpoint}' ({error})"  # what is before an @ may be a password
            raise InputError(f"target.endpoints.{service}{told} is no address; write http://<host>:<port>") from None


class Options(Protocol):
    """The options of a target that say how AWS is reached; docs are the target's."""

    @property
    def region(self) -> str: ...
    @property
    def profile(self) -> str | None: ...
    @property
    def endpoints(self) -> dict[str, str]: ...
    @property
    def upload_threads(self) -> int: ...


def connect(options: Options, services: tuple[str, ...], log: Console, dry_run: bool, clock: Clock | None) -> Aws:
    """The way to AWS that ``options`` name, for a target that asks ``services``.

    Raises:
        InputError: an endpoint of another service, or no thread to upload with.
    """
    check_endpoints(options.endpoints, services)
    threads = options.upload_threads
    if threads < 1:
        raise InputError(f"target.upload_threads={threads}; take 1 or more")
    return Aws(options.region, log, options.profile, options.endpoints, dry_run, clock, connections=threads + 2)


def check_endpoints(endpoints: Mapping[str, str], services: tuple[str, ...]) -> None:
    """Refuse endpoints of services that are not asked.

    Raises:
        InputError: naming the service.
    """
    for service in endpoints:
        if service not in services:
            allowed = ", ".join(services)
            raise InputError(f"target.endpoints.{service} is none of {allowed}{nearest(service, services)}")


def _whole(value: Any) -> Any:
    return value.read() if hasattr(value, "read") else value
