"""What is known of an export after a part of it was measured again."""

from __future__ import annotations

from qat.report.metrics import ExportResult

_FIRST = ("engine", "max_logit_difference", "loss", "perplexity")  # of the engine that stands for the export


def merged(before: ExportResult | None, now: ExportResult) -> ExportResult:
    """``now`` with what ``before`` says of engines that were not measured now, if both are of the same files.

    Files are the same where :attr:`ExportResult.files_sha256` is. An engine that is not available measures nothing, so
    it replaces only a result that says as much.
    """
    if before is None or before.files_sha256 is None or before.files_sha256 != now.files_sha256:
        return now
    engines = dict(before.engines)
    for name, result in now.engines.items():
        if result.status != "not_available" or name not in engines or engines[name].status == "not_available":
            engines[name] = result
    first = before if now.engine is None else now
    return now.model_copy(update={"engines": engines, **{key: getattr(first, key) for key in _FIRST}})
