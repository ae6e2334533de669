"""What every deletion of a push to AWS does around the services' own part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from qat.deploy.aws import s3
from qat.deploy.aws.clients import Aws, Options, connect
from qat.deploy.aws.ledger import Ledger
from qat.deploy.aws.s3 import S3Uri
from qat.deploy.aws.waiting import Clock
from qat.deploy.pushed import alone
from qat.errors import InputError

L = TypeVar("L", bound=Ledger)


@contextmanager
def deleting(
    options: Options,
    services: tuple[str, ...],
    ledger_of: type[L],
    folder: Path,
    log: Console,
    dry_run: bool,
    clock: Clock | None,
) -> Iterator[tuple[Aws, S3Uri, L]]:
    """The way to AWS, the address and the ledger of what was pushed from ``folder``; the ledger is closed at the end.

    Raises:
        InputError: nothing was pushed from there, or to another region.
        RunError: the bucket is another account's.
    """
    with alone(folder, dry_run):
        ledger = ledger_of.read(folder, dry_run)
        if ledger.region != options.region:
            raise InputError(f"{folder} was pushed to {ledger.region}; delete there: target.region={ledger.region}")
        aws, uri = connect(options, services, log, dry_run, clock), S3Uri.parse(ledger.s3_uri)
        s3.has_bucket(aws, uri)  # which another account is refused, to whom everything else would look gone already
        yield aws, uri, ledger
        ledger.close()
        if not dry_run:
            aws.say(f"deleted: all that was pushed from {folder}")
