"""Write a finished run's quantized model in formats that engines load."""

from __future__ import annotations

from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.errors import InputError
from qat.export.base import folder_bytes
from qat.jobs.stages import exports, finish, finished
from qat.jobs.stages.console import begin, say
from qat.report import metrics as report
from qat.report.tables import human_bytes

ACCEPTS = ("run", "overwrite")


def main(run: RunConfig, folder: RunFolder) -> None:
    """Run the command: every format is asked before the first one is written."""
    if run.run is None:
        raise InputError("qat export works on a finished run; name it with run=<run folder>")
    if not run.export:
        raise InputError("no export is picked; name one with export=<format>")
    for name in run.export:
        if (folder.exports / name).exists() and not run.overwrite:
            raise InputError(f"{folder.exports / name} exists already; replace it with overwrite=true")
    checkpoint = finished.checkpoint(folder)
    picked = exports.exporters(run)
    exports.refuse_unfit(picked, checkpoint)
    for name, exporter in picked.items():
        target = folder.exports / name
        _forget(name, folder)  # first: a command that is interrupted leaves no numbers of files that are gone
        begin(f"writing the export {name}")
        exporter.write(checkpoint, target, tokenizer_dir=folder.quantized, overwrite=run.overwrite)
        say(f"{name}: {target} ({human_bytes(folder_bytes(target))})")
    say(f"next: qat validate run={folder.path}")


def _forget(name: str, folder: RunFolder) -> None:
    """Take out of ``metrics.json`` what was measured of an export that is being replaced."""
    path = folder.path / finish.METRICS
    if path.is_file() and name in (metrics := report.read(path)).exports:
        del metrics.exports[name]
        report.write(metrics, path)
