"""The stages of a training run, in order. Each leaves its output complete under its final name or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stpipe.cards.card import write_card
from stpipe.config.data_format import sources
from stpipe.config.load import redact
from stpipe.data.stream import BatchStream
from stpipe.engine.callbacks import Callback, MetricsLog, ProgressDisplay, SparsityWatch
from stpipe.engine.callbacks.metrics_log import drop_records_after, write_records
from stpipe.engine.checkpoint import sync
from stpipe.engine.length import RunLength
from stpipe.engine.loop import BestRule, Trainer
from stpipe.evaluation.base import Evaluation
from stpipe.evaluation.helping import with_all
from stpipe.evaluation.run import all_baselines, evaluate_all, full_metrics, greater_is_better
from stpipe.evaluation.scoring import outputs_of
from stpipe.evaluation.write import write_evaluation
from stpipe.models.base_model import BaseModel
from stpipe.pipeline.card_record import card_callback, record_start
from stpipe.pipeline.environment import environment
from stpipe.pipeline.export import export_run
from stpipe.pipeline.publish import PublishCheckpoints, publish_run
from stpipe.pipeline.resume import training_identity
from stpipe.pipeline.run import Run
from stpipe.pipeline.status import Status
from stpipe.pipeline.tracking import TrackerNews
from stpipe.reports.atomic import write_text

Results = Mapping[str, Evaluation]


class _StatusStep(Callback):
    """Keeps the step in status.json current at each checkpoint and at the end."""

    def __init__(self, status: Status) -> None:
        self.status = status

    def on_checkpoint(self, trainer: Trainer) -> None:
        self.status.write(step=trainer.state.step)

    def on_train_end(self, trainer: Trainer) -> None:
        self.status.write(step=trainer.state.step)


def run_stages(run: Run, stream: BatchStream, length: RunLength, plan: Mapping[str, Any]) -> None:
    """All stages after the plan."""
    if run.is_main:
        write_records_of(run, plan)
    run.parts.model.to(run.runtime.device)
    before: Results | None = {}
    if run.settings.evaluate_before and run.parts.evaluators:
        before = run.with_all("evaluate_before", lambda: evaluate_before(run))
    with run.status.stage("train"):
        trainer = train(run, stream, length)
    run.on_main("save", lambda: save_model(run.parts.model, run.directory.model))
    run.with_all("evaluate", lambda: evaluate_after(run, trainer, before or {}))
    if run.parts.root.export:
        run.on_main("export", lambda: export_run(run))
    run.on_main("card", lambda: write_card(run.directory.path, run.directory.model))
    if run.parts.root.publish is not None:
        run.on_main("publish", lambda: publish_model(run))


def write_records_of(run: Run, plan: Mapping[str, Any]) -> None:
    """config.yaml, recipe.json, environment.json, plan.json, data.json and card.json: what the run is, before it does anything."""
    path = run.directory.path
    named = {name: section["train"] for name, _, section in sources(run.loaded.values["dataset"])}  # also where mined data stand in
    facts = {
        name: {
            "fingerprint": source.fingerprint,
            "rows": len(source),
            "format": source.format.name,
            "roles": list(source.roles),
            "source": named[name],
        }
        for name, source in run.parts.data.train.items()
    }
    if run.resumed:
        run.status.data["resumed"].append({"step": run.checkpoint.step if run.checkpoint is not None else 0})
    else:
        write_text(run.directory.config, yaml.safe_dump(redact(run.loaded), sort_keys=False, allow_unicode=True))
        recipe = {"recipe": run.loaded.recipe, "choices": run.loaded.choices, "changes": run.loaded.changes}
        write_text(path / "recipe.json", json.dumps(recipe, indent=1, default=str) + "\n")
    run.status.write(state="running", num_steps=plan["steps"], warnings=list(plan["warnings"]))
    write_text(path / "environment.json", json.dumps(environment(device=run.runtime.device, data=facts), indent=1) + "\n")
    write_text(path / "plan.json", json.dumps(plan, indent=1) + "\n")
    write_text(path / "data.json", json.dumps(run.parts.data.scan.as_dict(), indent=1) + "\n")
    record_start(run, named)


def evaluate(run: Run) -> Results:
    """Results of the model as it is, by evaluator."""
    return evaluate_all(run.parts.model, run.parts.evaluators, run.parts.eval_rows(), batch_size=run.settings.eval_batch_size)


def evaluate_between(run: Run) -> dict[str, float] | None:
    """All metrics under their full names, on rank 0; the other processes compute for it."""
    return with_all(run.runtime.peers, run.parts.model, "evaluation", lambda: full_metrics(evaluate(run)))


def evaluate_before(run: Run) -> Results:
    """Results of the model as it came. A resumed run computes them again, from the weights it starts from."""
    run.parts.model.eval()
    results = evaluate(run)
    if not run.resumed:
        with run.directory.metrics.open("a", encoding="utf-8") as file:
            write_records(file, step=0, epoch=0.0, split="eval", values=full_metrics(results))
    show(run, "before training", results)
    return results


def train(run: Run, stream: BatchStream, length: RunLength) -> Trainer:
    """Train to the end, from the newest checkpoint when the run is continued."""
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
    )
    if run.checkpoint is not None:
        trainer.load(run.checkpoint)
        run.out.print(f"Resuming after step {run.checkpoint.step} of {trainer.num_steps}")
    elif run.is_main:
        drop_records_after(run.directory.metrics, 0)
    trainer.fit()
    return trainer


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


def publish_model(run: Run) -> None:
    """Publish what the stages before left."""
    publish = run.parts.root.publish
    assert publish is not None
    address = publish_run(run.directory, publish, name=str(run.loaded.values["run"]["name"]))
    run.status.write(published=address)
    run.out.print(f"Published  {address}")


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


def evaluate_after(run: Run, trainer: Trainer, before: Results) -> None:
    """Evaluate the model that was saved; write every system's results side by side."""
    if not run.parts.evaluators:
        return
    after = evaluate(run)
    baselines = all_baselines(run.parts.evaluators, run.parts.eval_rows(), similarity=run.parts.model.similarity_fn_name)
    step = trainer.state.best_step if trainer.state.best_step is not None else trainer.state.step
    with run.directory.metrics.open("a", encoding="utf-8") as file:
        write_records(file, step=trainer.state.step, epoch=trainer.epoch, split="final", values=full_metrics(after))
    for name, result in after.items():
        start = {"before": before[name]} if name in before else {}
        write_evaluation(run.directory.evaluation / name, {**start, "after": result, **baselines[name]})
    show(run, f"after training (weights of step {step})", after)


def show(run: Run, title: str, results: Results) -> None:
    """The primary metric of each evaluator, on the terminal."""
    for name, result in results.items():
        run.out.print(f"{title}: {name}_{result.primary} {result.metrics[result.primary]:.4f}")
