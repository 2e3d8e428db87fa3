"""Representations of texts, and the batch of them that a loss sees.

Shape legend: see core/tokens.py. B anchors of this process (or anchor chunk), M rows of one column over the gather
group (M == B without gathering), P = pool rows (candidate columns x M).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from stpipe.config.formats import negative_roles
from stpipe.core.batch import Targets
from stpipe.core.result import LossOutput

#: Keys of RepBatch.teacher: a frozen model that says which negatives are none, and a copy of the model that is trained beside it.
GUIDE, TWIN = "guide", "twin"


@dataclass(frozen=True)  # no slots: ZeRO-3 looks with vars() for the tensors of what a module returns
class Rep:
    """One row per text. values: dense (N, D) | lexical (N, V) >= 0 | late interaction (N, T, D).

    mask (N, T) bool: tokens that count, late interaction only; extras: further outputs of the same forward, each (N, ...);
    aux: a loss that the encoder itself computed on these rows.
    """

    values: Tensor
    mask: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    aux: LossOutput | None = None

    def __len__(self) -> int:
        return self.values.shape[0]

    def rows(self, index: Tensor | slice) -> Rep:
        return Rep(
            self.values[index], None if self.mask is None else self.mask[index], {k: v[index] for k, v in self.extras.items()}, self.aux
        )

    def map(self, fn: Callable[[Tensor], Tensor]) -> Rep:
        """The same texts with `fn` applied to the values."""
        return replace(self, values=fn(self.values))

    @staticmethod
    def cat(parts: Sequence[Rep]) -> Rep:
        """All rows of all parts; the parts have the same extras and, for late interaction, the same T."""
        mask = None if parts[0].mask is None else torch.cat([p.mask for p in parts if p.mask is not None])
        extras = {k: torch.cat([p.extras[k] for p in parts]) for k in parts[0].extras}
        return Rep(torch.cat([p.values for p in parts]), mask, extras)


@dataclass(frozen=True, slots=True)
class Column:
    """One role: `local` has the B rows of this process, `all` the M rows of the gather group, text_id (M,) says which are the same text."""

    local: Rep
    all: Rep
    text_id: Tensor


@dataclass(frozen=True, slots=True)
class Pool:
    """Candidates of all anchors: rep (P, ...), row (P,) global row each came with, is_positive (P,) bool, text_id (P,)."""

    rep: Rep
    row: Tensor
    is_positive: Tensor
    text_id: Tensor


@dataclass(frozen=True, slots=True)
class RepBatch:
    """What a loss gets. row (B,) global row id of each local anchor, row_all (M,) of the whole gather group.

    teacher: name of another model -> role -> what it makes of the role's texts. A guide's stay as they are; a twin's are treated like
    those of the model, because it is trained with it.
    """

    columns: Mapping[str, Column]
    row: Tensor
    row_all: Tensor
    targets: Targets = field(default_factory=Targets)
    teacher: Mapping[str, Mapping[str, Column]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.row.numel()

    def local(self, role: str) -> Tensor:
        """Values of this process's rows of one role."""
        return self.columns[role].local.values

    @property
    def negatives(self) -> tuple[str, ...]:
        """The roles negative_1, negative_2, ... that are there, in order."""
        return negative_roles(self.columns)

    @property
    def roles(self) -> tuple[str, ...]:
        """All text roles: anchor, positive, negatives in order."""
        return tuple(r for r in ("anchor", "positive") if r in self.columns) + self.negatives

    def pool(self) -> Pool:
        """All positives, then all negatives of the gather group: the candidates of in-batch losses."""
        roles = ("positive", *self.negatives)
        columns = [self.columns[r] for r in roles]
        positive = torch.zeros(len(roles) * self.row_all.numel(), dtype=torch.bool, device=self.row_all.device)
        positive[: self.row_all.numel()] = True
        return Pool(Rep.cat([c.all for c in columns]), self.row_all.repeat(len(roles)), positive, torch.cat([c.text_id for c in columns]))

    def anchors(self, index: Tensor | slice) -> RepBatch:
        """Some of the local rows against the same pool: what a chunk of anchors sees, or for row-coupled losses a part of the batch."""

        def some(columns: Mapping[str, Column]) -> dict[str, Column]:
            return {role: replace(c, local=c.local.rows(index)) for role, c in columns.items()}

        teacher = {name: some(columns) for name, columns in self.teacher.items()}
        return replace(self, columns=some(self.columns), row=self.row[index], targets=self.targets.rows(index), teacher=teacher)

    def map_reps(self, fn: Callable[[Tensor], Tensor]) -> RepBatch:
        """Every representation, and vector targets too, with `fn` applied to its values."""
        vectors = {role: fn(v) for role, v in self.targets.vectors.items()}
        return replace(self._with_trained(lambda rep: rep.map(fn)), targets=replace(self.targets, vectors=vectors))

    def view(self, name: str) -> RepBatch:
        """Every representation replaced by one of its extras."""

        return self._with_trained(lambda rep: replace(rep, values=rep.extras[name]))

    def _with_trained(self, change: Callable[[Rep], Rep]) -> RepBatch:
        """The batch with every representation changed that comes from a model that is trained."""

        def changed(columns: Mapping[str, Column]) -> dict[str, Column]:
            return {role: replace(c, local=change(c.local), all=change(c.all)) for role, c in columns.items()}

        twin = {TWIN: changed(self.teacher[TWIN])} if TWIN in self.teacher else {}
        return replace(self, columns=changed(self.columns), teacher={**self.teacher, **twin})

    @staticmethod
    def from_values(
        values: Mapping[str, Tensor], *, targets: Targets | None = None, text_id: Mapping[str, Tensor] | None = None
    ) -> RepBatch:
        """A batch of one process from plain tensors, all texts different unless `text_id` says otherwise (tests, notebooks)."""
        first = next(iter(values.values()))
        row = torch.arange(first.shape[0], device=first.device)
        columns = {}
        for i, (role, tensor) in enumerate(values.items()):
            ids = text_id[role] if text_id and role in text_id else row + i * first.shape[0]
            columns[role] = Column(Rep(tensor), Rep(tensor), ids)
        return RepBatch(columns, row, row, targets or Targets())
