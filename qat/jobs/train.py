"""Train and quantize, without export and scores; without a scheme, train the float model.

A quantized run ends with ``quantized/``, a float run with ``model/``, a Hugging Face folder in bfloat16.
"""

from __future__ import annotations

from dataclasses import replace

from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.errors import InputError
from qat.jobs.stages import finish, inputs, qat_training, training
from qat.jobs.stages.console import say
from qat.jobs.stages.evaluation import Evaluation
from qat.models import hf
from qat.models.save import save_float
from qat.training.losses import CrossEntropy

ACCEPTS = ("resume",)


def main(run: RunConfig, folder: RunFolder) -> None:
    """Run the command."""
    if run.scheme is None:
        train_float(run, folder)
        return
    plan = qat_training.plan(run)
    qat_training.train(run, plan, inputs.load(run), folder)
    say(f"quantized checkpoint: {folder.quantized}")
    say(f"next: qat export run={folder.path}")


def train_float(run: RunConfig, folder: RunFolder) -> None:
    """Train the model as it is, write it as a Hugging Face folder, and score what was written."""
    if run.schedule:
        raise InputError("a schedule needs a scheme; pick one with scheme=<name>, or leave the phases out")
    loaded = inputs.load(run)
    training.check(run, loaded, CrossEntropy())
    Evaluation(run, loaded)
    folder.create()
    model = folder.path / "model"
    if not model.is_dir():
        loggers = training.extra_loggers(run, folder)
        training.fit_model(run, loaded, loaded.loaded.model, CrossEntropy(), folder, folder.path, loggers=loggers)
        save_float(loaded.loaded, model, dtype="bfloat16")
    read = hf.load(str(model), task=loaded.loaded.task)
    written = replace(loaded.loaded, model=read.model, file_dtype=read.file_dtype)
    metrics = finish.new_metrics(run, loaded)
    metrics.base = Evaluation(run, replace(loaded, loaded=written)).float("float", written.model)
    metrics.train = training.cost_of(folder.path)
    finish.publish(metrics, folder)
