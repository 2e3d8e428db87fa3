"""What a run is about to do, in derived numbers that configurations hide: printed before training and kept in plan.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.table import Table

from stpipe.data.stream import BatchStream
from stpipe.data.streaming import StreamBatches
from stpipe.engine.length import RunLength
from stpipe.engine.planner import default_budget
from stpipe.engine.strategies import in_words
from stpipe.losses.base import merge_targets
from stpipe.pipeline.assemble import Parts, source_of
from stpipe.pipeline.computing import BatchCost, batch_costs, strategy_lines
from stpipe.pipeline.objective import in_batch


def make_plan(
    parts: Parts, stream: BatchStream | StreamBatches, length: RunLength, *, world_size: int, device: str, warnings: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Derived facts of a run.

    `negatives_per_anchor` counts the other candidates of a full batch: positives and negatives of all rows of all
    processes but the anchor's own positive. `micro_batches_per_step` and `padding_share` are those of one process, from its first
    batches; `pool_bytes` what the representations of a batch of all processes take, in float32.
    """
    root = parts.root
    trainable = sum(p.numel() for p in parts.model.parameters() if p.requires_grad)
    sources: dict[str, dict[str, Any]] = {}
    costs = batch_costs(parts, stream, device=device)
    for name, source in parts.data.train.items():
        size = (source_of(root, name).batch_size or root.trainer.batch_size) * world_size
        sources[name] = {
            "rows": source.total_rows,
            "format": source.format.name,
            "roles": list(source.roles),
            "loss": type(parts.losses[name]).__name__,
            "coupling": parts.losses[name].effective_coupling(),
            "global_batch": size,
            "negatives_per_anchor": negatives_per_anchor(parts, name, size, costs.get(name)),
            "mean_tokens_per_row": round(mean_tokens(parts, name, costs.get(name)), 1),
            "strategy": parts.choices[name].strategy.name,
            "strategy_reason": parts.choices[name].reason,
        }
        if name in costs:
            sources[name] |= {
                "micro_batches_per_step": round(costs[name].micro_batches * length.accumulation, 1),
                "padding_share": round(costs[name].padding_share, 4),
                "pool_bytes": round(costs[name].pool_bytes),
            }
    first = next(iter(sources.values()))
    return {
        "model": type(parts.model).__name__,
        "strategy": " and ".join(dict.fromkeys(choice.strategy.name for choice in parts.choices.values())),
        "strategy_reasons": strategy_lines(parts.choices),
        "token_budget": root.strategy.token_budget or default_budget(device),
        "layout": parts.model.encoder.layout,
        "layout_reason": parts.model.encoder.layout_reason,
        "device": device,
        "precision": root.trainer.precision,
        "processes": world_size,
        "steps": length.num_steps,
        "batches": length.num_batches,
        "accumulation_steps": length.accumulation,
        "evaluate_every": length.eval_every,
        "save_every": length.save_every,
        "global_batch": first["global_batch"],
        "negatives_per_anchor": first["negatives_per_anchor"],
        "tokens_per_step": round(first["mean_tokens_per_row"] * first["global_batch"] * length.accumulation),
        **{key: first[key] for key in ("micro_batches_per_step", "padding_share", "pool_bytes") if key in first},
        "trainable_parameters": trainable,
        "total_parameters": sum(p.numel() for p in parts.model.parameters()),
        "sources": sources,
        "start": list(parts.start),
        "targets": dict(merge_targets(loss.targets() for loss in parts.losses.values())),
        "warnings": list(warnings),
    }


def negatives_per_anchor(parts: Parts, name: str, global_batch: int, cost: BatchCost | None) -> int:
    """Other candidates of an anchor: of the whole batch for in-batch losses, those drawn for its row and its own for losses of pairs."""
    loss, roles = parts.losses[name], parts.data.train[name].roles
    if loss.sampled_negatives() and cost is not None:
        return round(cost.row_texts - 1)
    return global_batch * (len(roles) - 1) - 1 if in_batch(loss) else 0


def mean_tokens(parts: Parts, name: str, cost: BatchCost | None) -> float:
    """Tokens of a row as the model sees it: of the data, or where the pairs are made for each batch, of the first batches."""
    source = parts.data.train[name]
    if name in parts.collators:
        return cost.row_tokens if cost is not None else 0.0
    return float(sum(np.mean(source.lengths(role)) for role in source.roles)) if len(source) else 0.0


def plan_table(plan: Mapping[str, Any]) -> Table:
    """The plan for a terminal."""
    table = Table(title="Plan", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, source in plan["sources"].items():
        table.add_row(
            f"data '{name}'",
            f"{'streamed' if source['rows'] is None else format(source['rows'], ',')} rows, {source['format']} ({', '.join(source['roles'])}), {source['mean_tokens_per_row']:,} tokens a row; "
            f"{source['loss']}, batch {source['global_batch']}, {source['negatives_per_anchor']:,} negatives an anchor",
        )
    table.add_row(
        "length", f"{plan['steps']:,} steps of {plan['accumulation_steps']} batch(es), about {plan['tokens_per_step']:,} tokens a step"
    )
    table.add_row("parameters", f"{plan['trainable_parameters']:,} trained of {plan['total_parameters']:,}")
    for name, source in plan["sources"].items():
        if "pool_bytes" in source:
            table.add_row(
                f"batch '{name}'",
                f"about {source['micro_batches_per_step']:,g} micro-batch(es) a step on each process, {source['padding_share']:.1%} padding, "
                f"representations {in_words(source['pool_bytes'])}",
            )
    for line in plan["strategy_reasons"]:
        table.add_row("strategy", line)
    table.add_row("computed", f"{plan['strategy']}, {plan['token_budget']:,} tokens a forward, {plan['precision']} on {plan['device']}")
    table.add_row("layout", f"{plan['layout']}: {plan['layout_reason']}")
    for line in plan["start"]:
        table.add_row("start", line)
    for name, target in plan["targets"].items():
        table.add_row("steered", f"{name} to {target:,.4g}")
    evaluate = f"every {plan['evaluate_every']} steps" if plan["evaluate_every"] else "before and after training"
    table.add_row("evaluate, save", f"{evaluate}; checkpoint every {plan['save_every']} steps")
    for warning in plan["warnings"]:
        table.add_row("[yellow]warning", warning)
    return table
