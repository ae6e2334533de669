"""The rows of a table, computed once each: a row with a seed has its own folder, and what is there is not repeated.

rows/<row>/seed<k>/metrics.json                the result
rows/<row>/seed<k>/<settings>/                 what was trained for it, and validation.json of a candidate
"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from qat.checkpoint import QuantizedCheckpoint
from qat.config import local_paths, record
from qat.config.check import check, instantiate
from qat.config.rows import Row, compose_row
from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.errors import DiskFull, InputError, Interrupted, QatError, RunError
from qat.jobs.stages import inputs, qat_training, quantization, training
from qat.jobs.stages.console import say
from qat.jobs.stages.evaluation import Evaluation, float_reference
from qat.models.loaded import LoadedModel
from qat.report import metrics as report
from qat.report.compare import RowResult, SeedResult
from qat.report.metrics import Quality, Strict, Train

ROWS, RESULT, VALIDATION = "rows", "metrics.json", "validation.json"
SEEDS = (0, 1, 2)
# What is the table's own among the words of the command.
_OWN = ("rows", "seeds", "tune", "run_dir", "resume")
# What no row needs, and what every row needs.
_EVERY_ROW = ("export=[]", "engine=[]", "evaluate.generate=false", "baseline.tuned_float=true")


class Candidate(Strict):
    """Loss of one candidate on the validation split; null where its training diverged."""

    loss: float | None = None


@dataclass(frozen=True)
class Made:
    """A model of a row: ``checkpoint``, or the float ``model``; and what it cost."""

    seconds: float
    tokens: int | None = None
    checkpoint: QuantizedCheckpoint | None = None
    model: LoadedModel | None = None

    def quality(self, name: str, evaluation: Evaluation) -> Quality:
        """Score it."""
        if self.checkpoint is not None:
            return evaluation.quantized(name, self.checkpoint)
        assert self.model is not None
        return evaluation.float(name, self.model.model)


class TableRows:
    """Computes rows on one model, one text and one evaluator.

    Args:
        run: the checked config of the command.
        folder: where everything goes; nothing is written before a row is made.

    Raises:
        InputError: the model or the text cannot be used, or the run has no scheme.
    """

    def __init__(self, run: RunConfig, folder: RunFolder) -> None:
        quantization.scheme_of(run)
        self.run, self.folder = run, folder
        self.seeds = list(dict.fromkeys(run.seeds or SEEDS))
        self.inputs = inputs.load(run)
        self.evaluation = Evaluation(run, self.inputs)
        words = [*folder.overrides, *folder.anchors]
        self._typed = [word for word in words if word.partition("=")[0].lstrip("+~") not in _OWN]
        self._float: tuple[Row, list[str]]  # the row of the tuned float and what was chosen for it
        self._float_losses: dict[int, Quality] = {}
        self._tuned: tuple[int, LoadedModel] | None = None

    @cached_property
    def validation(self) -> Evaluation:
        """Scores on the validation split, by which candidates are chosen; the test split has no say."""
        return Evaluation(self.run, self.inputs, "validation")

    @cached_property
    def base(self) -> Quality:
        """The float model as it came; scored once."""
        path = self.folder.path / "float.json"
        if not path.is_file():
            report.write(self.evaluation.float("float", self.inputs.loaded.model), path)
        return Quality.model_validate_json(path.read_text(encoding="utf-8"))

    @property
    def costs(self) -> list[Train]:
        """Of every training so far, candidates that were not chosen included."""
        paths = (self.folder.path / ROWS).rglob(training.cost_file(Path()).name)
        return [cost for path in sorted(paths) if (cost := training.cost_of(path.parent)) is not None]

    def check(self, row: Row) -> str | None:
        """Why ``row`` does not fit the recipe, before anything slow begins; None where it does.

        Raises:
            InputError: the tuned float does not, and no table can do without it.
        """
        try:
            for settings in self._candidates(row):
                run, _ = self._composed(row, self.seeds[0], settings)
                instantiate(run.optimizer, "optimizer")
                if row.kind == "ptq":
                    instantiate(run.ptq, "ptq")
                elif row.kind == "trained":
                    qat_training.plan(run)
        except InputError as error:
            if row.kind == "float":
                raise
            return str(error)
        if len(self._candidates(row)) > 1:
            _ = self.validation
        return None

    def result(self, row: Row, reason: str | None) -> RowResult:
        """Compute what is missing of ``row``; ``reason`` leaves it out.

        Raises:
            InputError: it was computed with other overrides.
            Interrupted: after Ctrl-C; its message says how to go on.
        """
        found = RowResult(name=row.name, title=row.title, kind=row.kind, reason=reason)
        if reason is not None:
            return found
        try:
            try:
                found.settings = self._choose(row, found)
            except InputError as error:
                return found.model_copy(update={"reason": _left_out(row, error)})
            for seed in self.seeds[: row.first_seeds]:
                found.seeds.append(self._cell(row, seed, found.settings))
                if found.seeds[-1].reason is not None:
                    break
            if row.kind == "float":
                self._float = row, found.settings
                self._float_losses = {one.seed: one.quality for one in found.seeds if one.quality is not None}
        except Interrupted as error:
            raise Interrupted(f"interrupted in row {row.name}; {self.folder.how_to_resume}") from error
        reasons = [one.reason for one in found.seeds if one.reason is not None]
        return found.model_copy(update={"reason": reasons[0] if reasons else None})

    def _candidates(self, row: Row) -> list[list[str]]:
        return row.candidates() if self.run.tune else [[]]

    def _choose(self, row: Row, found: RowResult) -> list[str]:
        """The candidate with the lowest validation loss, with the first seed."""
        candidates = self._candidates(row)
        if len(candidates) == 1:
            return candidates[0]
        losses = [self._validation_loss(row, settings) for settings in candidates]
        found.validation = {" ".join(settings): loss for settings, loss in zip(candidates, losses, strict=True)}
        _, best = min((math.inf if loss is None else loss, index) for index, loss in enumerate(losses))
        return candidates[best]

    def _validation_loss(self, row: Row, settings: list[str]) -> float | None:
        path = self._place(row, self.seeds[0], settings) / VALIDATION
        if not path.is_file():
            say(f"{row.name}, seed {self.seeds[0]}, {' '.join(settings)}: a candidate")
            try:
                made = self._make(row, self.seeds[0], settings)
                loss = made.quality(f"{row.name} on the validation split", self.validation).loss
            except (DiskFull, Interrupted):
                raise
            except RunError as error:
                say(f"  left out: {error}", "yellow")
                loss = None
            report.write(Candidate(loss=loss), path)
        return Candidate.model_validate_json(path.read_text(encoding="utf-8")).loss

    def _cell(self, row: Row, seed: int, settings: list[str]) -> SeedResult:
        path = self._place(row, seed) / RESULT
        changes = [*row.overrides, *row.with_activations]
        if path.is_file():
            before = SeedResult.model_validate_json(path.read_text(encoding="utf-8"))
            if (before.overrides, before.settings) != (changes, settings):
                was, now = " ".join([*before.overrides, *before.settings]), " ".join([*changes, *settings])
                raise InputError(
                    f"{path.parent} was made with '{was}', and row {row.name} is now '{now}'; remove that folder to "
                    "make it again"
                )
            return before
        say(f"{row.name}, seed {seed}{''.join(f', {word}' for word in settings)}")
        result = SeedResult(row=row.name, seed=seed, overrides=changes, settings=settings)
        try:
            made = self._make(row, seed, settings)
            result.quality = made.quality(row.name, self.evaluation)
            result.tokens, result.seconds = made.tokens, made.seconds
        except (DiskFull, Interrupted):
            raise
        except (InputError, RunError) as error:
            result.reason = _left_out(row, error)
            if isinstance(error, InputError):  # such as an environment that is missing: a resume tries again
                return result
        report.write(result, path)
        for checkpoints in self._place(row, seed).glob("**/checkpoints"):
            shutil.rmtree(checkpoints)  # they are for a resume, and this is finished
        return result

    def _make(self, row: Row, seed: int, settings: list[str]) -> Made:
        """Train or quantize; what an interrupted attempt has finished is read back."""
        run, folder = self._composed(row, seed, settings)
        if row.kind == "float":
            folder.create()
            model = training.tune_float(run, self.inputs, folder)
            cost = training.cost_of(folder.path / "tuned_float")
            assert model is not None and cost is not None
            return Made(cost.seconds or 0.0, cost.tokens, model=model)
        tuned = self._tuned_float(seed)
        if row.kind == "ptq":
            of = float_reference(self.base, self._float_losses[seed])
            start = tuned if of == "tuned_float" else self.inputs.loaded
            algorithm = instantiate(run.ptq, "ptq")
            begin = time.perf_counter()
            scheme = quantization.scheme_of(run)
            checkpoint = quantization.post_training(run, self.inputs, start.model, algorithm, scheme)
            return Made(time.perf_counter() - begin, checkpoint=checkpoint)
        trained = qat_training.train(run, qat_training.plan(run), self.inputs, folder, tuned, tables=False)
        cost = training.cost_of(folder.path)
        assert cost is not None
        return Made(cost.seconds or 0.0, cost.tokens, trained.checkpoint)

    def _tuned_float(self, seed: int) -> LoadedModel:
        """The tuned float of a seed, read back; its row is made before any other."""
        if self._tuned is None or self._tuned[0] != seed:
            row, settings = self._float
            made = self._make(row, seed, settings)
            assert made.model is not None
            self._tuned = seed, made.model
        return self._tuned[1]

    def _composed(self, row: Row, seed: int, settings: list[str]) -> tuple[RunConfig, RunFolder]:
        """The run of one candidate or cell, and its folder."""
        composed = compose_row(row, self._typed, [*_EVERY_ROW, *settings, f"seed={seed}"], self.run.recipes)
        path = self._place(row, seed, settings)
        config = local_paths.absolute(record.resolved(composed.config))
        words = [record.redact_override(word) for word in composed.words]
        return check(composed.config), RunFolder("compare", path, config, words, exists=(path / ".hydra").is_dir())

    def _place(self, row: Row, seed: int, settings: list[str] | None = None) -> Path:
        """Folder of a row with a seed; with ``settings``, of what is trained for it."""
        path = self.folder.path / ROWS / row.name / f"seed{seed}"
        return path if settings is None else path / (",".join(settings) or "training")


def _left_out(row: Row, error: QatError) -> str:
    """The reason, said; no table can do without the tuned float, so that its error is raised."""
    if row.kind == "float":
        raise error
    say(f"  left out: {error}", "yellow")
    return str(error)
