"""One mining from pairs to rows and report, for the documented function and for the verb alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from stpipe.util.mining.formats import Names, tables
from stpipe.util.mining.mine import Mining
from stpipe.util.mining.report import MiningReport, ReportBuilder, RowTexts, TokenCounter, cost_of

#: Columns that hold no texts.
LABELS = ("score", "scores", "label", "labels")
TOKENS_AT_ONCE = 256


@dataclass(frozen=True)
class Output:
    """How rows are written: format, whether with scores, names of the columns."""

    output_format: str = "triplet"
    scores: bool = False
    names: Names = field(default_factory=Names)


@dataclass(frozen=True)
class Mined:
    """The result of a mining. Rows are made when they are asked for, a block of queries at a time."""

    mining: Mining
    output: Output
    settings: dict[str, Any]

    def tables(self) -> Iterator[pa.Table]:
        """The rows in order, a table for each block."""
        output = self.output
        return tables(self.mining.blocks(), self.mining.pairs, output_format=output.output_format, scores=output.scores, names=output.names)

    def report(self, rows: int, texts_of: RowTexts, count: TokenCounter | None = None) -> MiningReport:
        """What was found.

        Args:
            rows: of the output.
            texts_of: row numbers in rising order -> the texts of each of these rows, from which the cost of training is estimated.
            count: counts tokens.
        """
        builder = ReportBuilder(self.mining.pairs, self.mining.rules)
        for block in self.mining.blocks():
            builder.add(block)
        cost = cost_of(rows, texts_of, count)
        return builder.report(self.mining.blocks(), settings=self.settings, pool=self.mining.depth, cost=cost)


def texts_of(table: pa.Table, rows: Sequence[int]) -> list[list[str]]:
    """The texts of some rows, the query first; lists of documents one by one."""
    columns = [name for name in table.column_names if name not in LABELS]
    found: list[list[str]] = []
    for row in table.select(columns).take(list(rows)).to_pylist():
        texts: list[str] = []
        for value in row.values():
            texts += value if isinstance(value, list) else [value]
        found.append(texts)
    return found


def token_counter(model: Any) -> TokenCounter | None:
    """Counts the tokens of texts as a model's tokenizer makes and cuts them; None for a model without one."""
    tokenizer = getattr(model, "tokenizer", None)
    if not callable(tokenizer):
        return None
    limit = getattr(model, "max_seq_length", None) or 0

    def count(texts: list[str]) -> list[int]:
        lengths: list[int] = []
        for start in range(0, len(texts), TOKENS_AT_ONCE):
            encoded = tokenizer(texts[start : start + TOKENS_AT_ONCE], truncation=False, verbose=False)
            lengths += [min(len(ids), limit) if limit else len(ids) for ids in encoded["input_ids"]]
        return lengths

    return count
