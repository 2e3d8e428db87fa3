"""What the objective sees of a batch: representations gathered over processes, or the scores of the pairs of each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from stpipe.core.batch import Batch
from stpipe.core.reps import TWIN, Column, Rep, RepBatch
from stpipe.core.scores import ScoreBatch
from stpipe.engine.gather import gather_column, gather_rows, gather_targets, row_counts

#: (batch, role -> what the encoder made of its texts, coupling of the loss) -> what a loss is called with.
View = Callable[[Batch, Mapping[str, Rep], str], Any]


def by_twin(role: str) -> str:
    """What the representations of a role are called that the model's twin made."""
    return f"{TWIN}@{role}"


def representations(batch: Batch, reps: Mapping[str, Rep], coupling: str) -> RepBatch:
    """What a loss of this coupling sees (engine/gather.py), in float32; what other models make of the texts is gathered alike."""
    counts = (len(batch),) if coupling == "row" else row_counts(len(batch), batch.row.device)

    def gathered(found: Mapping[str, Rep]) -> dict[str, Column]:
        columns = {role: gather_column(rep.map(torch.Tensor.float), batch.columns[role].text_id, counts) for role, rep in found.items()}
        return {role: Column(c.all, c.all, c.text_id) for role, c in columns.items()} if coupling == "batch" else columns

    columns = gathered({role: reps[role] for role in batch.columns if role in reps})
    teacher = {name: gathered({role: Rep(x) for role, x in of_role.items()}) for name, of_role in batch.teacher.items()}
    if twin := {role: reps[by_twin(role)] for role in batch.columns if by_twin(role) in reps}:
        teacher[TWIN] = gathered(twin)
    row_all = gather_rows(batch.row, counts)
    if coupling != "batch":
        return RepBatch(columns, batch.row, row_all, batch.targets, teacher)
    return RepBatch(columns, row_all, row_all, gather_targets(batch.targets, counts), teacher)


def scores(batch: Batch, reps: Mapping[str, Rep], coupling: str) -> ScoreBatch:
    """The logits of the candidates of each row, in float32; those of all processes for a sum of losses that count different things."""
    ((role, rep),) = reps.items()
    logits, counts, targets, row = rep.values.float(), batch.columns[role].counts, batch.targets, batch.row
    assert counts is not None  # the collator of pairs counts the candidates
    if coupling == "batch":
        rows = row_counts(len(batch), row.device)
        logits = gather_rows(logits, row_counts(logits.shape[0], row.device))
        counts, row, targets = gather_rows(counts, rows), gather_rows(row, rows), gather_targets(targets, rows)
    return ScoreBatch.from_flat(logits, counts, targets=targets, row=row)


#: Kind of model -> its view.
VIEWS: Mapping[str, View] = {"dense": representations, "sparse": representations, "cross_encoder": scores}
