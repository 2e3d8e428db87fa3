"""The stages after the weights are saved. They need the saved model alone, so a run whose model is there continues with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from stpipe.cards.card import write_card
from stpipe.config.file_names import file_name
from stpipe.engine.callbacks.metrics_log import drop_records, has_records, write_records
from stpipe.evaluation.base import Evaluation
from stpipe.evaluation.run import all_baselines, evaluate_all, full_metrics
from stpipe.evaluation.write import write_evaluation
from stpipe.models.load import load_model
from stpipe.pipeline.card_record import keep_template
from stpipe.pipeline.export import export_run
from stpipe.pipeline.publish import publish_run
from stpipe.pipeline.run import Assembled, Frame
from stpipe.pipeline.stage_table import BY_NAME

Results = Mapping[str, Evaluation]


def later_stages(run: Assembled, names: Sequence[str], before: Results) -> None:
    """The named stages, of those that follow the saved model, in order. `run` holds the trained model.

    before: results of the start weights, to stand beside those of the trained ones.
    """
    if "evaluate" in names:
        run.with_all("evaluate", lambda: evaluate_after(run, before))
    if "export" in names:
        run.on_main("export", lambda: export_run(run))
    without_model(run, names)


def without_model(run: Frame, names: Sequence[str]) -> None:
    """Those that need files alone."""
    work: dict[str, Callable[[], object]] = {
        "card": lambda: write_card(run.directory.path, run.directory.model),
        "publish": lambda: publish_model(run),
    }
    for name in work:
        if name in names:
            run.on_main(name, work[name])


def continue_later(run: Frame, names: Sequence[str], *, device: str) -> None:
    """Stages of a run whose model is saved already.

    Args:
        run: with model (its start weights) and data, where a stage needs them.
        names: of the stages.
        device: where the model computes.
    """
    if run.is_main:
        run.status.write(state="running", warnings=list((run.claim.status or {}).get("warnings", ())))
        keep_template(run.loaded.values["card"]["template"], run.directory.path)
    if not isinstance(run, Assembled):
        without_model(run, names)
        return
    before: Results | None = {}
    started = run
    if "evaluate" in names and run.settings.evaluate_before:
        run.parts.model.to(device)
        before = run.with_all("evaluate_before", lambda: evaluate_before(started))
    trained = load_model(run.directory.model, device=device)
    later_stages(replace(run, parts=replace(run.parts, model=trained)), names, before or {})


def need_data(names: Sequence[str]) -> bool:
    """Whether a stage uses model and data."""
    return any(BY_NAME[name].needs_data for name in names)


def evaluate(run: Assembled) -> Results:
    """Results of the model as it is, by evaluator."""
    return evaluate_all(run.parts.model, run.parts.evaluators, run.parts.eval_rows(), batch_size=run.settings.eval_batch_size)


def evaluate_before(run: Assembled) -> Results:
    """Results of the model as it came. A resumed run computes them again, from the weights it starts from."""
    run.parts.model.eval()
    results = evaluate(run)
    if not has_records(run.directory.metrics, step=0, split="eval"):
        with run.directory.metrics.open("a", encoding="utf-8") as file:
            write_records(file, step=0, epoch=0.0, split="eval", values=full_metrics(results))
    show(run, "before training", results)
    return results


def evaluate_after(run: Assembled, before: Results) -> None:
    """Evaluate the model that was saved; write every system's results side by side."""
    after = evaluate(run)
    baselines = all_baselines(run.parts.evaluators, run.parts.eval_rows(), similarity=run.parts.model.similarity_fn_name)
    trained = run.status.data["trained"]
    drop_records(run.directory.metrics, lambda record: record["split"] == "final")  # of an attempt that failed later
    with run.directory.metrics.open("a", encoding="utf-8") as file:
        write_records(file, step=trained["step"], epoch=trained["epoch"], split="final", values=full_metrics(after))
    for name, result in after.items():
        start = {"before": before[name]} if name in before else {}
        write_evaluation(run.directory.evaluation / file_name(name), {**start, "after": result, **baselines[name]})
    show(run, f"after training (weights of step {trained['kept']})", after)


def show(run: Frame, title: str, results: Results) -> None:
    """The primary metric of each evaluator, on the terminal."""
    for name, result in results.items():
        run.out.print(f"{title}: {name}_{result.primary} {result.metrics[result.primary]:.4f}")


def publish_model(run: Frame) -> None:
    """Publish what the stages before left."""
    address = publish_run(run.directory, run.publish, name=str(run.loaded.values["run"]["name"]))
    run.status.write(published=address)
    run.out.print(f"Published  {address}")
