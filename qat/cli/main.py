"""The command line, ``qat <command> [key=value ...]``: a command is a Hydra job, an error is one line.

Exit codes: 0 done, 1 the run failed, 2 the input cannot be used or the disk is full, 130 interrupted.
``QAT_DEBUG=1`` shows the traceback of an error.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from qat import __version__
from qat.cli import commands, completion, help, quiet
from qat.cli.arguments import Arguments
from qat.config import compose, hosting
from qat.config.check import check, check_as
from qat.config.explain import explain
from qat.config.run_folder import RunFolder, choose
from qat.errors import DiskFull, InputError, Interrupted, QatError, RunError, is_disk_full


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after ``qat``; default: those of the process.
    """
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        return _report("interrupted", Interrupted.exit_code)
    except QatError as error:
        return _report(str(error), error.exit_code)


def _dispatch(words: list[str]) -> int:
    if completion.is_request(words):
        return _complete(words)
    if not words or words[0] in ("-h", "--help", "help"):
        help.overview(Console())
    elif words[0] == "--version":
        print(f"qat {__version__}")
    else:
        command, *rest = words
        commands.check(command)
        if command in commands.PLAIN:
            return _plain(command, rest)
        if not rest and command in ("run", "train"):
            raise InputError(
                f"say what to train: qat {command} recipe=demo/w4a16_lsq, or a model and data of your own "
                f"(qat {command} --help lists them)"
            )
        arguments = Arguments.parse(command, rest)
        compose.setup(arguments.recipes)
        if arguments.help:
            help.command_page(Console(), command)
        else:
            _hydra(command, arguments.words)
    return 0


def _plain(command: str, words: list[str]) -> int:
    """Run a command that works on no recipe, so Hydra has no part in it."""
    if {"-h", "--help"} & {*words}:
        help.plain_page(Console(), command)
        return 0
    quiet.libraries()
    commands.load(command).main(words)
    return 0


def _hydra(command: str, words: list[str]) -> None:
    """Hand over to Hydra: it composes the config, serves ``--cfg`` and ``--multirun``, and calls the job."""

    def job(config: DictConfig) -> None:
        _run(command, config)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises instead of printing and exiting
    typed, sys.argv = sys.argv, [f"qat {command}", *words]  # which is where Hydra reads them
    decorate = hydra.main(config_path=None, config_name=compose.primary(command), version_base=compose.VERSION_BASE)
    try:
        decorate(job)()
    except QatError:
        raise
    except Exception as error:  # what a job raises arrives as a QatError, so this came out of composition
        raise explain(error) from error
    finally:
        sys.argv = typed
        GlobalHydra.instance().clear()


def _run(command: str, config: DictConfig) -> None:
    """Check the config, choose the run folder, run the job.

    A single run exits with its own code. In a sweep an error is raised: Hydra goes on with the other jobs.
    """
    quiet.libraries()
    context = HydraConfig.get()
    sweep = context.mode == RunMode.MULTIRUN
    swept = Path(context.runtime.output_dir) if sweep else None
    try:
        _start(command, config, list(context.overrides.task), swept)
    except Exception as error:
        known = error if isinstance(error, QatError) else None
        if known is None:
            traceback.print_exc()
            known = RunError(f"unexpected {type(error).__name__} (a bug in qat, see the traceback above)")
        if sweep:
            raise known from error
        raise SystemExit(_report(str(known), known.exit_code)) from error


def _start(command: str, config: DictConfig, overrides: list[str], swept: Path | None) -> None:
    # Here and not above: this imports torch, and --help and --cfg answer without.
    job = commands.load(command)
    if (settings := hosting.schema(command)) is not None:
        _call(lambda: job.main(check_as(settings, config)), lambda: "")
        return
    if swept is not None:
        (swept.parent / "multirun.yaml").unlink(missing_ok=True)  # may hold secrets; each job records itself
    switches = {
        "overwrite": "true" if config.overwrite else None,
        "stream": "true" if config.stream and config.run is None else None,  # a finished run may have been streamed
        **{key: config[key] for key in ("widths", "granularity") if config.run is None},
        **{key: config[key] for key in ("budget", "budget_bytes")},
        "rows": config.rows or None,
        "seeds": config.seeds or None,
        "tune": None if config.tune else "false",
    }
    commands.check_accepts(command, {"resume": config.resume, "run": config.run, **switches})
    run = check(config)
    folder = choose(command, run, config, overrides, swept)
    _call(lambda: job.main(run, folder), lambda: _how_to_go_on(job, folder))


def _call(work: Callable[[], None], how_to_go_on: Callable[[], str]) -> None:
    """Do the work; an interruption and a full disk say how to go on."""
    try:
        work()
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted{how_to_go_on()}") from None
    except Exception as error:
        if not is_disk_full(error):
            raise
        where = f" at {name}" if (name := getattr(error, "filename", None)) else ""
        raise DiskFull(f"no disk space left{where}; free some{how_to_go_on()}") from error


def _how_to_go_on(job: ModuleType, folder: RunFolder) -> str:
    """What to type, where there is something to go on with; else whether anything is there."""
    if not (folder.path / ".hydra").is_dir():
        return "; nothing was written"
    return f"; {folder.how_to_resume}" if "resume" in job.ACCEPTS else ""


def _report(message: str, code: int) -> int:
    if os.environ.get("QAT_DEBUG") == "1":
        traceback.print_exc()
    line = " ".join(message.split())
    print(f"qat: error: {line}" if code != Interrupted.exit_code else f"qat: {line}", file=sys.stderr)
    return code


def _complete(words: list[str]) -> int:
    command = completion.command()
    if (found := completion.complete_command()) is not None:
        print(" ".join(found))
    else:
        compose.setup()
        _hydra(command, words)
    return 0
