"""The stages of a training run, in order. Each leaves its output complete under its final name or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stpipe.config.data_format import sources
from stpipe.config.load import redact
from stpipe.data.stream import BatchStream
from stpipe.data.streaming import StreamBatches
from stpipe.engine.callbacks import Callback, MetricsLog, ProgressDisplay, SparsityWatch
from stpipe.engine.callbacks.metrics_log import drop_records_after
from stpipe.engine.checkpoint import sync
from stpipe.engine.length import RunLength
from stpipe.engine.loop import BestRule, Trainer
from stpipe.evaluation.helping import with_all
from stpipe.evaluation.run import full_metrics, greater_is_better
from stpipe.evaluation.scoring import outputs_of
from stpipe.models.base_model import BaseModel
from stpipe.pipeline.card_record import card_callback, record_start
from stpipe.pipeline.continuation import record_start_of
from stpipe.pipeline.environment import environment
from stpipe.pipeline.later import Results, evaluate, evaluate_before, later_stages
from stpipe.pipeline.publish import PublishCheckpoints
from stpipe.pipeline.resume import training_identity
from stpipe.pipeline.run import Run, places
from stpipe.pipeline.stage_table import wanted
from stpipe.pipeline.status import Status
from stpipe.pipeline.tracking import TrackerNews
from stpipe.reports.atomic import write_text


class _StatusStep(Callback):
    """Keeps the step in status.json current at each checkpoint and at the end."""

    def __init__(self, status: Status) -> None:
        self.status = status

    def on_checkpoint(self, trainer: Trainer) -> None:
        self.status.write(step=trainer.state.step)

    def on_train_end(self, trainer: Trainer) -> None:
        self.status.write(step=trainer.state.step)


def run_stages(
    run: Run, stream: BatchStream | StreamBatches, length: RunLength, plan: Mapping[str, Any], *, only: str | None = None
) -> None:
    """All stages after the plan, or one of those that need the state of training (`train`, `save`)."""
    if run.is_main:
        write_records_of(run, plan)
    run.parts.model.to(run.runtime.device)
    before: Results | None = {}
    if only is None and run.settings.evaluate_before and run.parts.evaluators:
        before = run.with_all("evaluate_before", lambda: evaluate_before(run))
    if only == "save":
        train(run, stream, length)  # it takes no step, but brings back the weights that were chosen
    else:
        with run.status.stage("train", **places("train")):
            train(run, stream, length)
    if only == "train":
        return
    run.on_main("save", lambda: save_model(run.parts.model, run.directory.model))
    if only is None:
        later_stages(run, [stage.name for stage in wanted(run.loaded.values)], before or {})


def write_records_of(run: Run, plan: Mapping[str, Any]) -> None:
    """config.yaml, recipe.json, environment.json, plan.json, data.json and card.json: what the run is, before it does anything."""
    path = run.directory.path
    named = {name: section["train"] for name, _, section in sources(run.loaded.values["dataset"])}  # also where mined data stand in
    facts = {
        name: {
            "fingerprint": source.fingerprint,
            "rows": source.total_rows,
            "format": source.format.name,
            "roles": list(source.roles),
            "source": named[name],
        }
        for name, source in run.parts.data.train.items()
    }
    warnings = [*plan["warnings"], *record_start_of(run)]
    run.status.write(state="running", num_steps=plan["steps"], warnings=warnings)
    write_text(path / "environment.json", json.dumps(environment(device=run.runtime.device, data=facts), indent=1) + "\n")
    write_text(path / "plan.json", json.dumps(plan, indent=1) + "\n")
    write_text(path / "data.json", json.dumps(run.parts.data.scan.as_dict(), indent=1) + "\n")
    record_start(run, named)


def evaluate_between(run: Run) -> dict[str, float] | None:
    """All metrics under their full names, on rank 0; the other processes compute for it."""
    return with_all(run.peers, run.parts.model, "evaluation", lambda: full_metrics(evaluate(run)))


def train(run: Run, stream: BatchStream | StreamBatches, length: RunLength) -> None:
    """Train to the end, from the newest checkpoint when the run is continued, and note which weights the model has then."""
    parts, root, runtime = run.parts, run.parts.root, run.runtime
    module = parts.module().to(runtime.device)
    runtime.prepare(module, root.optimizer.build(module))
    best = None
    if root.trainer.best_metric is not None:
        higher = greater_is_better(
            parts.evaluators,
            root.trainer.best_metric,
            similarity=parts.model.similarity_fn_name,
            kind=parts.model.kind,
            outputs=outputs_of(parts.model),
        )
        best = BestRule(root.trainer.best_metric, higher)
    trainer = Trainer(
        model=parts.model,
        runtime=runtime,
        stream=stream,
        length=length,
        schedule=root.scheduler,
        settings=root.trainer,
        folder=run.directory.checkpoints,
        identity=training_identity(redact(run.loaded), parts, processes=runtime.world_size),
        evaluate=(lambda: evaluate_between(run)) if parts.evaluators else None,
        best=best,
        callbacks=[*(records(run) if run.is_main else ()), *root.callbacks.values(), *forwarding(run)],
        signals=run.signals,
    )
    if run.checkpoint is not None:
        trainer.load(run.checkpoint)
        run.out.print(f"Resuming after step {run.checkpoint.step} of {trainer.num_steps}")
    elif run.is_main:
        drop_records_after(run.directory.metrics, 0)
    with run.signals.noted():
        trainer.fit()
    state = trainer.state
    kept = state.step if state.best_step is None else state.best_step
    run.status.write(step=state.step, trained={"step": state.step, "kept": kept, "epoch": trainer.epoch})


def records(run: Run) -> list[Callback]:
    """Callbacks that write and show what happens."""
    settings = run.settings
    return [
        MetricsLog(run.directory.metrics),
        _StatusStep(run.status),
        ProgressDisplay(settings.progress),
        *watches(run),
        card_callback(run),
    ]


def watches(run: Run) -> list[Callback]:
    """Callbacks that look for what goes wrong with this kind of model."""
    # An autoencoder has as many active terms as it was given; only where a regulariser decides can they become too many or none.
    regularized = run.parts.root.model.sparsity == "regularizer"
    return [SparsityWatch(run.parts.model.encoder.embedding_dim, run.warn)] if regularized else []


def forwarding(run: Run) -> list[Callback]:
    """Callbacks about what goes elsewhere. They come last, so that the state of the others stands under the same numbers with and without them."""
    news = [TrackerNews(run.followers, run.warn)] if run.is_main else []
    publish = run.parts.root.publish
    if publish is None or not publish.checkpoints:
        return [*news]
    return [*news, PublishCheckpoints(publish, run.directory.path, name=str(run.loaded.values["run"]["name"]), warn=run.warn)]


def save_model(model: BaseModel, folder: Path) -> None:
    """Write the model aside, sync it, and put it in place whole."""
    aside = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    model.save_pretrained(aside)
    for path in (*aside.rglob("*"), aside):
        sync(path)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    sync(folder.parent)
