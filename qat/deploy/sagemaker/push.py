"""The way to a SageMaker endpoint and back; each step is in ``pushed.json`` before the next one begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from rich.console import Console

from qat.deploy.aws.calls import Call
from qat.deploy.aws.clients import connect
from qat.deploy.aws.deletion import deleting
from qat.deploy.aws.ledger import Ledger
from qat.deploy.aws.s3 import S3Uri
from qat.deploy.aws.upload import Digests, read, remove, upload
from qat.deploy.aws.waiting import Clock
from qat.deploy.pushed import alone
from qat.deploy.sagemaker import api
from qat.deploy.sagemaker.target import SageMaker, uploaded
from qat.errors import InputError

SERVICES = ("s3", "sagemaker", "sagemaker-runtime")
KINDS = ("Model", "EndpointConfig", "Endpoint")
"""In the order in which they are made."""


class SageMakerLedger(Ledger):
    """What a push to SageMaker made.

    Attributes:
        name: of model, configuration and endpoint.
        made: which of :data:`KINDS` were made, or were about to be -> what they were asked for with.
    """

    target: Literal["sagemaker"] = "sagemaker"
    name: str = ""
    made: dict[str, dict[str, Any]] = Field(default_factory=dict)


def push(target: SageMaker, folder: Path, log: Console, dry_run: bool, clock: Clock | None = None) -> None:
    """See :meth:`qat.deploy.sagemaker.target.SageMaker.push`."""
    endpoint, uri = api.Endpoint.of(target), S3Uri.parse(target.s3_uri)
    creations = api.creations(endpoint)
    for call in creations:
        call.check()
    aws = connect(target, SERVICES, log, dry_run, clock)
    with alone(folder, dry_run):
        where = {"target": target.name, "region": target.region, "s3_uri": str(uri)}
        ledger = SageMakerLedger.begin(folder, dry_run, **where)
        digests = read(aws, uploaded(target, folder), uri)
        _check_same(digests, ledger, endpoint.name)
        ledger.name = endpoint.name
        upload(aws, uri, digests, ledger, target.upload_threads)
        for kind, call in zip(KINDS, creations, strict=True):
            if aws.find(api.described(kind, endpoint.name)) is not None:
                _check_ours(kind, call, ledger)
                continue
            ledger.made = {**ledger.made, kind: dict(call.parameters)}  # before it exists: a deletion must know
            ledger.save()
            aws.send(call)
        api.wait_until_in_service(aws, endpoint.name, target.start_minutes)
        text = api.ask(aws, endpoint.name, target.smoke_prompt)
        if not dry_run:
            aws.say(f"{endpoint.name} is in service and wrote {text!r}; it costs until action=delete")


def delete(target: SageMaker, folder: Path, log: Console, dry_run: bool, clock: Clock | None = None) -> None:
    """See :meth:`qat.deploy.sagemaker.target.SageMaker.delete`."""
    with deleting(target, SERVICES, SageMakerLedger, folder, log, dry_run, clock) as (aws, uri, ledger):
        for kind in reversed(KINDS):  # the endpoint first: it costs
            if kind in ledger.made:
                aws.remove(api.deleted(kind, ledger.name))
                ledger.made = {made: call for made, call in ledger.made.items() if made != kind}
                ledger.save()
        remove(aws, uri, ledger)


def _check_same(digests: Digests, ledger: SageMakerLedger, name: str) -> None:
    """An endpoint keeps what it loaded: another model, or another name, is another push."""
    now = {key: held.sha256.hex() for key, held in digests.items()}
    before = {key: held.sha256 for key, held in ledger.objects.items()}
    if ledger.made and (now != before or ledger.name != name):
        raise InputError(f"{ledger.name} was made of other files or under another name; delete it first: action=delete")


def _check_ours(kind: str, wanted: Call, ledger: SageMakerLedger) -> None:
    """What is there was made from this folder, and with these options: AWS keeps it as it is."""
    asked, asks = ledger.made.get(kind), wanted.parameters
    if asked is None:
        raise InputError(
            f"there is a {kind} {asks[f'{kind}Name']} that this folder did not make; set target.endpoint_name=<name>"
        )
    if changed := [key for key in sorted({**asked, **asks}) if asked.get(key) != asks.get(key)]:
        raise InputError(f"{kind} {ledger.name} was made with another {changed[0]}; delete it first: action=delete")
