"""Bring a finished run to a host: write what it takes, check that against the host's rules, push it, remove it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from qat.config import record
from qat.config.check import instantiate
from qat.config.hosting import DeployConfig
from qat.deploy.base import Source, Target
from qat.deploy.checks import Preflight
from qat.deploy.pushed import PUSHED
from qat.deploy.words import word
from qat.errors import InputError, RunError
from qat.jobs.stages import finished
from qat.jobs.stages.console import say
from qat.paths import new_folder

ACCEPTS = ("run",)
REPORT = "preflight.json"


def main(settings: DeployConfig) -> None:
    """Run one action.

    Raises:
        InputError: what is asked for does not fit together, or the host cannot take this model.
        RunError: a rule of the host failed, or the host did.
    """
    if settings.target is None:
        raise InputError("say where to: qat deploy target=<host> (qat deploy --help lists them)")
    if settings.run is not None and settings.folder is not None:
        raise InputError("give one of run= and folder=, not both")
    if settings.run is None and settings.folder is None:
        raise InputError("give the finished run with run=<run folder>, or a folder as it lies with folder=<folder>")
    target: Target = instantiate(settings.target, "target")
    if settings.dry_run and settings.action not in ("push", "delete"):
        raise InputError(f"--dry-run is for action=push and action=delete; action={settings.action} sends nothing")
    if settings.overwrite and (settings.action != "prepare" or settings.run is None):
        raise InputError(
            "overwrite=true is for action=prepare with run=, where only a prepare writes; a folder=... may hold other "
            "things: remove it first, or name another"
        )
    if settings.report is not None and not Path(settings.report).absolute().parent.is_dir():
        raise InputError(f"report={settings.report} lies in no folder that is there; make it first, or name another")
    target.check_options(settings.action)
    if settings.action == "prepare":
        _prepare(settings, target)
        return
    folder = _prepared(settings, target)
    log = Console(stderr=settings.dry_run)  # a dry run has nothing but calls on standard output
    if settings.action != "delete":
        _refuse(_check(settings, target, folder, log))
    if settings.action == "push":
        target.push(folder, log, settings.dry_run)
    elif settings.action == "delete":
        target.delete(folder, log, settings.dry_run)
    if settings.dry_run:
        log.print(f"dry run: nothing was sent; {settings.action} sends the calls on standard output, one a line")


def _prepare(settings: DeployConfig, target: Target) -> None:
    """Write everything beside, give it its name and check it; what fails a rule stays, to be looked at."""
    if settings.run is None and target.needs_run:
        raise InputError("action=prepare writes from a finished run; name it with run=<run folder>")
    where = word("run", settings.run) if settings.run is not None else word("folder", settings.folder)
    folder = _place(settings, target)
    if (folder / PUSHED).is_file():
        raise InputError(
            f"{folder} was pushed, and {PUSHED} in it knows what lies there; remove that first with: "
            f"qat deploy target={target.name} {where} action=delete"
        )
    if folder.is_dir() and not settings.overwrite:
        again = (
            ", overwrite=true writes it again"
            if settings.run is not None
            else "; to write again, remove it or name another folder"
        )
        raise InputError(f"{folder} exists already; action=preflight checks it again{again}")
    source = None if settings.run is None else _source(settings.run)
    with new_folder(folder, settings.overwrite) as temporary:
        target.prepare(source, temporary)
    preflight = _check(settings, target, folder, Console())
    say(f"{target.name}: {folder}")
    _refuse(preflight)
    if target.pushes:
        options = " ".join(("action=push", *target.next_words, "--dry-run"))
        say(f"next: qat deploy target={target.name} {where} {options}")


def _source(run: str) -> Source:
    folder = finished.take_up("deploy", run)
    name = finished.name_of(folder).replace("/", "-")
    return Source(checkpoint=finished.checkpoint(folder), tokenizer=folder.quantized, name=name)


def _place(settings: DeployConfig, target: Target) -> Path:
    if settings.run is None:
        assert settings.folder is not None
        return Path(settings.folder)
    record.read_config(Path(settings.run))  # which says what is wrong with a folder that is no run
    return Path(settings.run) / "deploy" / target.name


def _prepared(settings: DeployConfig, target: Target) -> Path:
    folder = _place(settings, target)
    if settings.run is not None and not folder.is_dir():
        raise InputError(f"{folder} is not there; make it with: qat deploy target={target.name} run={settings.run}")
    return folder


def _check(settings: DeployConfig, target: Target, folder: Path, log: Console) -> Preflight:
    """Every rule: what needs doing on the screen, all of them as JSON."""
    preflight = target.preflight(folder)
    log.print(preflight)
    log.print()
    report = Path(settings.report) if settings.report is not None else folder / REPORT
    ours = settings.run is not None and not settings.dry_run  # nothing is put into a folder of somebody else's
    if ours or settings.report is not None:
        preflight.write(report)
        log.print(f"all checks in full: {report}", markup=False, highlight=False, soft_wrap=True)
    elif preflight.of("pass"):
        log.print("all checks in full: add report=FILE.json", markup=False, highlight=False)
    return preflight


def _refuse(preflight: Preflight) -> None:
    if preflight.failed:
        rules = ", ".join(check.rule for check in preflight.failed)
        first = preflight.failed[0]
        told = " ".join(f"{first.rule} found {first.found}; allowed: {first.allowed}; fix: {first.fix}".split())
        raise RunError(
            f"{preflight.folder} fails {len(preflight.failed)} of the rules of {preflight.target}: {rules}; {told}"
        )
