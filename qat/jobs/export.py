"""Write a finished run's quantized model in a format that engines load."""

from __future__ import annotations

from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.errors import InputError
from qat.export.base import folder_bytes
from qat.jobs.stages import exports, finished
from qat.jobs.stages.console import say
from qat.report.summary import human_bytes

ACCEPTS = ("run",)


def main(run: RunConfig, folder: RunFolder) -> None:
    """Run the command."""
    if run.run is None:
        raise InputError("qat export works on a finished run; name it with run=<run folder>")
    if not run.export:
        raise InputError("no export is picked; name one with export=<format>")
    checkpoint = finished.checkpoint(folder)
    for name, exporter in exports.exporters(run).items():
        target = folder.exports / name
        exporter.write(checkpoint, target, tokenizer_dir=folder.quantized)
        say(f"{name}: {target} ({human_bytes(folder_bytes(target))})")
