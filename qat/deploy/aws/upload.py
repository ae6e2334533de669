"""A folder to S3: in parallel parts with SHA-256, of which only those are sent that S3 does not hold already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from qat.deploy.aws import s3
from qat.deploy.aws.claim import claim, is_ours, release
from qat.deploy.aws.clients import Aws
from qat.deploy.aws.digest import PART_BYTES, Digest, Part, digest_of, encode
from qat.deploy.aws.ledger import Ledger, Stored
from qat.deploy.aws.s3 import S3Uri
from qat.deploy.pushed import LOCAL
from qat.errors import InputError, RunError

Digests = dict[str, Digest]
"""Key -> the file that belongs there."""


def read(aws: Aws, folder: Path, uri: S3Uri, part: int = PART_BYTES) -> Digests:
    """Every file below ``folder`` with its checksums, but for our own notes; or one file alone.

    Raises:
        InputError: there is none.
    """
    root = folder.parent if folder.is_file() else folder
    found = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    paths = [path for path in found if str(path.relative_to(root)) not in LOCAL]
    if not paths:
        raise InputError(f"{folder} has no files to upload")
    with _progress(aws) as progress:
        task = progress.add_task("checksums", total=sum(path.stat().st_size for path in paths))
        return {
            uri.key(path.relative_to(root).as_posix()): digest_of(path, lambda n: progress.advance(task, n), part)
            for path in paths
        }


def upload(aws: Aws, uri: S3Uri, digests: Digests, ledger: Ledger, threads: int) -> None:
    """Bring every file to ``uri`` and check that it is there; go on where an earlier call was cut off.

    Args:
        aws: the way there.
        uri: where to; it is claimed first.
        digests: see :func:`read`.
        ledger: gets every key before its object is made.
        threads: parts sent at once.

    Raises:
        InputError: the address belongs to another push, or holds objects that nobody here knows.
        RunError: S3 refused, or holds other bytes in the end.
    """
    s3.check_bucket(aws, uri)
    ledger.save()
    claim(aws, uri, ledger.push_id)
    missing = {key: held for key, held in digests.items() if not is_equal(s3.head(aws, uri, key), held)}
    foreign = _clear(aws, uri, digests, missing, ledger)
    ledger.objects = {
        key: Stored(size=held.size, sha256=held.sha256.hex(), made=key not in foreign) for key, held in digests.items()
    }
    ledger.save()
    here = sum(held.size for held in digests.values()) - sum(held.size for held in missing.values())
    if not aws.dry_run:
        aws.say(f"{uri}: {len(digests) - len(missing)} of {len(digests)} files are there ({here:,} bytes)")
    started = {one["Key"]: one["UploadId"] for one in s3.uploads(aws, uri) if one.get("ChecksumAlgorithm") == s3.SHA256}
    with _progress(aws) as progress:
        task = progress.add_task("upload", total=sum(held.size for held in missing.values()))
        for key, held in missing.items():
            _send(aws, uri, key, held, started.get(key), threads, lambda n: progress.advance(task, n))
    for key, held in missing.items():
        if not is_equal(s3.head(aws, uri, key, _as_rehearsed(held)), held):
            raise RunError(f"s3://{uri.bucket}/{key} does not hold the bytes of {held.path}; push again")


def remove(aws: Aws, uri: S3Uri, ledger: Ledger) -> None:
    """Delete the objects that a push brought and their unfinished uploads, and give the address up.

    Where the bucket is gone, or another push holds the address by now, nothing there is ours any more.
    """
    if not s3.has_bucket(aws, uri):
        aws.say(f"there is no bucket {uri.bucket} any more")
    elif not is_ours(aws, uri, ledger.push_id):
        aws.say(f"{uri} belongs to another push by now: what lies there is left", "yellow")
    else:
        brought = ledger.brought
        for one in s3.uploads(aws, uri):
            if one["Key"] in brought:
                s3.abort(aws, uri, one["Key"], one["UploadId"])
        s3.delete(aws, uri, brought)
        release(aws, uri)
    ledger.objects = {}
    ledger.save()


def is_equal(held: Mapping[str, Any] | None, digest: Digest) -> bool:
    """Whether what S3 says of an object is true of this file.

    The checksum is S3's own, of the object whole or of its parts. An object that has none, or came in other parts, is
    known by the SHA-256 that we wrote beside it.
    """
    if held is None or held["ContentLength"] != digest.size:
        return False
    if (checksum := held.get("ChecksumSHA256")) is not None:
        same = (digest.checksum, digest.composite, digest.composite.partition("-")[0])
        if checksum in same:
            return True
        if held.get("ChecksumType") != "COMPOSITE" or checksum.endswith(f"-{len(digest.parts)}"):
            return False
    return held.get("Metadata", {}).get("sha256") == digest.sha256.hex()


def _clear(aws: Aws, uri: S3Uri, digests: Digests, missing: Digests, ledger: Ledger) -> set[str]:
    """Delete what an earlier push of this folder brought and the folder has no more.

    Returns:
        The keys that were there before any push from here, with the bytes of our files: used, and not ours to delete.

    Raises:
        InputError: there is an object that nobody here knows, or one of others under the name of a file of ours.
    """
    held = s3.keys(aws, uri)
    foreign = {*held} - {*ledger.brought}
    if strangers := sorted(foreign - (digests.keys() - missing.keys())):
        raise InputError(
            f"{uri} holds {strangers[0]}, which is not of this folder, and an import takes everything below the "
            "prefix; choose an empty one, or delete that object"
        )
    s3.delete(aws, uri, [key for key in held if key not in digests])
    return foreign


def _send(
    aws: Aws, uri: S3Uri, key: str, digest: Digest, started: str | None, threads: int, sent: Callable[[int], None]
) -> None:
    if len(digest.parts) == 1:
        s3.put(aws, uri, key, digest)
        sent(digest.size)
        return
    etags = _arrived(aws, uri, key, digest, started)
    upload_id = started or s3.begin(aws, uri, key, digest)
    numbered = dict(enumerate(digest.parts, start=1))
    sent(sum(numbered[number].section.length for number in etags))

    def put(number: int, part: Part) -> tuple[int, str]:
        etag = s3.put_part(aws, uri, key, upload_id, number, part)
        sent(part.section.length)
        return number, etag

    pool = ThreadPoolExecutor(threads)
    try:
        todo = [pool.submit(put, number, part) for number, part in numbered.items() if number not in etags]
        etags |= dict(future.result() for future in as_completed(todo))
    finally:  # after a failure or an interruption no further part is begun
        pool.shutdown(cancel_futures=True)
    s3.complete(aws, uri, key, upload_id, digest, etags)


def _arrived(aws: Aws, uri: S3Uri, key: str, digest: Digest, started: str | None) -> dict[int, str]:
    """Number -> ETag of the parts that S3 holds already, with the bytes that they should have."""
    etags: dict[int, str] = {}
    for held in s3.parts(aws, uri, key, started) if started else []:
        number = held["PartNumber"]
        if number > len(digest.parts):
            continue
        part = digest.parts[number - 1]
        found, wanted = held.get("ChecksumSHA256"), encode(part.sha256)
        if found == wanted if found is not None else held["ETag"].strip('"') == part.md5:
            etags[number] = held["ETag"]
    return etags


def _as_rehearsed(digest: Digest) -> dict[str, Any]:
    return {"ContentLength": digest.size, "ChecksumSHA256": digest.checksum}


def _progress(aws: Aws) -> Progress:
    speed = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *speed,
        console=aws.log,
        transient=True,
        disable=not aws.log.is_terminal,
    )
