"""What a model card holds, by kind of model: given by the author, or collected over the life of a run.

The pipeline fills an instance when the run starts and while it trains, and keeps it in card.json of the run directory; metrics
and logs are in metrics.jsonl and evaluation/, where they are written when they happen. The card is made from these files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from stpipe.cards.citations import grouped_citations
from stpipe.cards.datasets import DatasetFacts, dataset_metadata
from stpipe.cards.examples import usage_examples, widget
from stpipe.cards.losses import LossFacts, describe_losses
from stpipe.core.rows import Rows


@dataclass
class SentenceTransformerModelCardData:
    """Card data of a dense embedding model; base of the others.

    Given by the author:
        language: code or codes of the languages, like "en" or ["de", "en"].
        license: the Hub's identifier of the licence, like "apache-2.0"; None is stated as such, never guessed.
        model_name: title of the card.
        model_id: name on the Hub; snippets load the model by it.
        train_datasets, eval_datasets: data sets as mappings with `name` and `id`; a run collects them itself.
        task_name: what the model is for, in words.
        tags: tags of the Hub besides those of the model's kind.
        generate_widget_examples: whether the card has examples for the Hub's widget.

    Collected:
        base_model, base_model_revision: start weights, and their commit on the Hub.
        losses: objectives with their parameters and sources (cards/losses.py, as mappings).
        citations: names of the losses -> BibTeX.
        non_default_hyperparameters, all_hyperparameters: key -> value.
        training_logs: a mapping a logged step: Step, Epoch, Training Loss, evaluation metrics by name.
        eval_results: metrics of the trained model by evaluator.
        best_model_step: the step whose weights were kept, None: the last.
        widget, usage_examples: texts of the training data, when the author allows that.
        sessions: one mapping for each process that trained: from_step, to_step, seconds, evaluation_seconds, energy.
        version: framework versions.
    """

    language: str | list[str] | None = None
    license: str | None = None
    model_name: str | None = None
    model_id: str | None = None
    train_datasets: list[dict[str, Any]] = field(default_factory=list)
    eval_datasets: list[dict[str, Any]] = field(default_factory=list)
    task_name: str | None = None
    tags: list[str] = field(default_factory=list)
    generate_widget_examples: bool = True

    base_model: str | None = field(default=None, init=False)
    base_model_revision: str | None = field(default=None, init=False)
    losses: list[dict[str, Any]] = field(default_factory=list, init=False)
    citations: dict[str, str] = field(default_factory=dict, init=False)
    non_default_hyperparameters: dict[str, Any] = field(default_factory=dict, init=False)
    all_hyperparameters: dict[str, Any] = field(default_factory=dict, init=False)
    training_logs: list[dict[str, Any]] = field(default_factory=list, init=False)
    eval_results: dict[str, dict[str, float]] = field(default_factory=dict, init=False)
    best_model_step: int | None = field(default=None, init=False)
    widget: list[dict[str, Any]] = field(default_factory=list, init=False)
    usage_examples: list[str] = field(default_factory=list, init=False)
    sessions: list[dict[str, Any]] = field(default_factory=list, init=False)
    version: dict[str, str] = field(default_factory=dict, init=False)

    kind: ClassVar[str] = "dense"
    pipeline_tag: ClassVar[str] = "sentence-similarity"
    library_name: ClassVar[str] = "sentence-transformers"
    template: ClassVar[str] = "dense.md.j2"
    DERIVED: ClassVar[frozenset[str]] = frozenset(
        {"citations", "non_default_hyperparameters", "all_hyperparameters", "training_logs", "eval_results", "best_model_step", "version"}
    )

    def add_tags(self, tags: str | Iterable[str]) -> None:
        """Add tags that are not there yet."""
        new = [tags] if isinstance(tags, str) else tags
        self.tags = list(dict.fromkeys([*self.tags, *new]))

    def extract_dataset_metadata(self, datasets: Iterable[DatasetFacts], *, examples: int = 0) -> list[dict[str, Any]]:
        """Origin, checksums, statistics and loss of each data set; `examples` rows of each are kept, none by default."""
        return [dataset_metadata(facts, examples=examples) for facts in datasets]

    def set_losses(self, losses: Mapping[str, Any]) -> None:
        """Losses by data set: their parameters, sources and tags `loss:NAME`."""
        self.set_loss_facts(describe_losses(losses))

    def set_loss_facts(self, facts: Iterable[LossFacts]) -> None:
        """The same for losses that are described already."""
        found = tuple(facts)
        self.losses = [loss.as_dict() for loss in found]
        self.citations = grouped_citations(found)
        self.add_tags(f"loss:{name}" for loss in found for name in loss.names)

    def set_widget_examples(self, rows: Rows) -> None:
        """Short texts of a data set for the Hub's widget and the snippets; nothing when it has too few."""
        self.usage_examples = usage_examples(rows)
        if self.usage_examples and self.generate_widget_examples:
            self.widget = widget(self.pipeline_tag, self.usage_examples)

    def loss_facts(self) -> tuple[LossFacts, ...]:
        """The losses as objects."""
        return tuple(map(LossFacts.from_dict, self.losses))

    def to_dict(self) -> dict[str, Any]:
        """What card.json holds: everything that no other file of the run directory has."""
        return {"kind": self.kind, **{f.name: getattr(self, f.name) for f in fields(self) if f.name not in self.DERIVED}}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> SentenceTransformerModelCardData:
        """Take back what `to_dict` gave; members of a newer or older version are passed over."""
        data = cls()
        for known in fields(cls):
            if known.name in found and known.name not in cls.DERIVED:
                setattr(data, known.name, found[known.name])
        data.citations = grouped_citations(data.loss_facts())
        return data

    def write(self, model_dir: str | Path) -> Path:
        """Write README.md into the directory of a saved model, from what is known here and what the directory says itself."""
        from stpipe.cards.card import write_model_card

        return write_model_card(Path(model_dir), data=self)


@dataclass
class SparseEncoderModelCardData(SentenceTransformerModelCardData):
    """Card data of a sparse encoder; members as in the base."""

    kind: ClassVar[str] = "sparse"
    pipeline_tag: ClassVar[str] = "feature-extraction"
    template: ClassVar[str] = "sparse.md.j2"


@dataclass
class CrossEncoderModelCardData(SentenceTransformerModelCardData):
    """Card data of a cross-encoder; members as in the base. Tasks on pairs have no widget on the Hub, so `widget` stays empty."""

    kind: ClassVar[str] = "cross_encoder"
    pipeline_tag: ClassVar[str] = "text-ranking"
    template: ClassVar[str] = "cross_encoder.md.j2"


CARD_DATA: Mapping[str, type[SentenceTransformerModelCardData]] = {
    cls.kind: cls for cls in (SentenceTransformerModelCardData, SparseEncoderModelCardData, CrossEncoderModelCardData)
}
