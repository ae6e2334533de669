"""The schema of ``compare.json``: what ``qat compare`` measured, row by row and seed by seed, and means over the seeds.

Every number is of the same model, data, tokens and evaluator; losses are nats a token on the test split.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any, Literal

from pydantic import Field

from qat.report.metrics import Environment, Quality, Strict
from qat.report.recovery import Reference, recovery, reference

RTN = "rtn"
TUNED_FLOAT = "tuned_float"
MEASURES = ("loss", "perplexity", "top1_agreement", "kl")
LEAST_LOST = 1e-3
"""Nats that PTQ must have lost for a share of them to say anything: below it there is only noise to share."""
RECOVERIES = ("recovery_rtn", "recovery_best_ptq")


class SeedResult(Strict):
    """One row with one seed; the ``metrics.json`` of its folder.

    Attributes:
        row: its name.
        seed: of the order of the training text.
        overrides: words of the row, those for a scheme with quantized activations included.
        settings: what was chosen for it on the validation split.
        quality: what was measured; null where the row was left out.
        reason: why it was left out.
        tokens: trained on, those of the tuned float that it starts from or learns from not included.
        seconds: wall time of the training, or of the quantization.
        against: the float model that PTQ of this seed starts from and recovery is against.
        recovery_rtn: share of RTN's loss that was won back (:mod:`qat.report.recovery`); :func:`summarize` fills it in;
            null where RTN lost less than :data:`LEAST_LOST`.
        recovery_best_ptq: the same against the best PTQ row.
    """

    row: str
    seed: int
    overrides: list[str] = Field(default_factory=list)
    settings: list[str] = Field(default_factory=list)
    quality: Quality | None = None
    reason: str | None = None
    tokens: int | None = None
    seconds: float | None = None
    against: Reference | None = None
    recovery_rtn: float | None = None
    recovery_best_ptq: float | None = None


class Statistics(Strict):
    """Of one number over the seeds; ``std`` is that of a sample, null of a single seed."""

    mean: float
    least: float
    most: float
    std: float | None = None


class RowResult(Strict):
    """One row.

    Attributes:
        name: that of its YAML.
        title: what a reader sees.
        kind: ``float``, ``ptq`` or ``trained``.
        reason: why it was left out; null of a row with numbers.
        settings: what was chosen for it on the validation split.
        validation: every candidate and its loss on the validation split; null of one that diverged.
        seeds: results, seed by seed.
        statistics: measure -> mean and spread over the seeds.
        bytes: size of the weights.
        tokens: trained on, of one seed.
        seconds: mean over the seeds.
    """

    name: str
    title: str
    kind: Literal["float", "ptq", "trained"]
    reason: str | None = None
    settings: list[str] = Field(default_factory=list)
    validation: dict[str, float | None] = Field(default_factory=dict)
    seeds: list[SeedResult] = Field(default_factory=list)
    statistics: dict[str, Statistics] = Field(default_factory=dict)
    bytes: int | None = None
    tokens: int | None = None
    seconds: float | None = None


class Budget(Strict):
    """What the table cost.

    Attributes:
        steps: optimizer steps of one training.
        tokens: of one training.
        trainings: those behind the rows, candidates that were not chosen included.
        seconds: of all of them together, quantization included, scoring not.
        test_tokens: that every row is scored on.
        validation_tokens: that candidates are chosen on.
    """

    steps: int
    tokens: int
    trainings: int
    seconds: float
    test_tokens: int
    validation_tokens: int | None = None


class Comparison(Strict):
    """The whole of ``compare.json``.

    Attributes:
        recipe: what every row starts from.
        model: name of the model.
        scheme: name of the scheme.
        command: what was typed.
        seeds: of the rows.
        base: the float model as it came.
        best_ptq: name of the PTQ row with the lowest mean loss.
        budget: what it cost.
        environment: what ran it.
        rows: in the order of the table.
    """

    recipe: str | None = None
    model: str
    scheme: str
    command: str
    seeds: list[int]
    base: Quality
    best_ptq: str | None = None
    budget: Budget
    environment: Environment
    rows: list[RowResult] = Field(default_factory=list)


def statistics(values: Sequence[float]) -> Statistics:
    """Mean and spread.

    Example:
        >>> statistics([1.0, 2.0, 3.0])
        Statistics(mean=2.0, least=1.0, most=3.0, std=1.0)
    """
    spread = stdev(values) if len(values) > 1 else None
    return Statistics(mean=fmean(values), least=min(values), most=max(values), std=spread)


def summarize(rows: Iterable[RowResult], base: Quality) -> tuple[list[RowResult], str | None]:
    """The rows with their recoveries and statistics, and the name of the best PTQ row.

    The best PTQ row is the one with the lowest mean loss on the test split: that makes the opponent as strong as it can
    be. A recovery compares losses of one seed, whose PTQ rows come from one float model.
    """
    result = [row.model_copy(deep=True) for row in rows]
    by_name = {row.name: row for row in result}
    ptq = {row.name: fmean(losses) for row in result if row.kind == "ptq" and (losses := _values(row, "loss"))}
    best = min(ptq, key=ptq.__getitem__) if ptq else None
    for row in result:
        for one in row.seeds:
            one.against, one.recovery_rtn = _recovery(one, by_name, RTN, base)
            one.against, one.recovery_best_ptq = _recovery(one, by_name, best, base)
        measured = {name: _values(row, name) for name in (*MEASURES, *RECOVERIES)}
        row.statistics = {name: statistics(values) for name, values in measured.items() if values}
        row.bytes = next((one.quality.bytes for one in row.seeds if one.quality is not None), None)
        row.tokens = next((one.tokens for one in row.seeds if one.tokens is not None), None)
        seconds = [one.seconds for one in row.seeds if one.seconds is not None]
        row.seconds = fmean(seconds) if seconds else None
    return result, best


def _recovery(
    one: SeedResult, rows: dict[str, RowResult], ptq: str | None, base: Quality
) -> tuple[Reference | None, float | None]:
    """Float reference of the seed of ``one``, and its recovery against the PTQ row ``ptq`` of that seed."""
    tuned = _loss_of(rows.get(TUNED_FLOAT), one.seed)
    if base.loss is None:
        return None, None
    against = reference(base.loss, tuned)
    own, other = _loss(one), _loss_of(rows.get(ptq or ""), one.seed)
    if own is None or other is None or one.row == TUNED_FLOAT:
        return against, None
    float_loss = tuned if against == "tuned_float" and tuned is not None else base.loss
    if other - float_loss < LEAST_LOST:
        return against, None
    return against, recovery(other, own, float_loss).value


def _loss(one: SeedResult) -> float | None:
    return None if one.quality is None else one.quality.loss


def _loss_of(row: RowResult | None, seed: int) -> float | None:
    found = (_loss(one) for one in (row.seeds if row is not None else []) if one.seed == seed)
    return next(found, None)


def _values(row: RowResult, measure: str) -> list[float]:
    """What the seeds of a row have of a measure."""
    sources: list[Any] = [one if measure in RECOVERIES else one.quality for one in row.seeds]
    found = (getattr(source, measure) for source in sources if source is not None)
    return [value for value in found if value is not None]
