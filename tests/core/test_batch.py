"""Rows of a batch: all their texts and targets, and nothing else."""

from __future__ import annotations

import torch

from stpipe.core.batch import Batch, Targets
from tests.engine.tiny import pair_batch, random_batch


def test_rows_of_single_texts() -> None:
    batch = random_batch(6, roles=("anchor", "positive", "negative_1"))
    part = batch.rows(torch.tensor([4, 1]))
    assert part.row.tolist() == [4, 1] and part.source == batch.source
    for role, column in batch.columns.items():
        texts = column.tokens.ids.split(column.tokens.lengths.tolist())
        assert part.columns[role].tokens.ids.tolist() == torch.cat([texts[4], texts[1]]).tolist()
        assert part.columns[role].text_id.tolist() == column.text_id[[4, 1]].tolist()
    assert batch.targets.score is not None and part.targets.score is not None
    assert part.targets.score.tolist() == batch.targets.score[[4, 1]].tolist()


def test_rows_of_lists_are_as_wide_as_their_longest() -> None:
    batch = pair_batch([3, 5, 1, 2])
    part = batch.rows(torch.tensor([3, 0]))
    column = part.columns["pair"]
    assert column.counts is not None and column.counts.tolist() == [2, 3]
    texts = batch.columns["pair"].tokens.ids.split(batch.columns["pair"].tokens.lengths.tolist())
    assert column.tokens.ids.tolist() == torch.cat([*texts[9:11], *texts[:3]]).tolist()
    assert column.text_id.tolist() == [9, 10, 0, 1, 2]
    assert part.targets.scores is not None and batch.targets.scores is not None
    torch.testing.assert_close(part.targets.scores, batch.targets.scores[[3, 0], :3], equal_nan=True)


def test_margins_keep_their_number() -> None:
    """Two negatives a row, so three candidates and two margins: these are no scores of a list."""
    batch = pair_batch([3, 3, 3])
    batch = Batch(batch.columns, Targets(scores=torch.arange(6.0).view(3, 2)), batch.row)
    part = batch.rows(torch.tensor([2, 1]))
    assert part.targets.scores is not None and part.targets.scores.tolist() == [[4, 5], [2, 3]]


def test_parts_make_the_whole() -> None:
    batch = pair_batch([3, 5, 1, 2, 4])
    order = torch.tensor([4, 0, 2, 1, 3])
    parts = [batch.rows(rows) for rows in order.split(2)]
    assert sum(part.num_tokens for part in parts) == batch.num_tokens
    assert torch.cat([part.row for part in parts]).tolist() == order.tolist()
