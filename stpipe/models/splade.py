"""The `splade` model: a masked-language model whose predicted words are the representation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.fields import option
from stpipe.config.registry import MODELS
from stpipe.core.tokens import Tokens
from stpipe.models.component import EmbeddingComponent, TrainingTexts
from stpipe.models.format import LoadOptions, read_modules, read_settings, stored_classes
from stpipe.models.mlm_head import calibrate_head
from stpipe.models.modules import MaskedLanguageModel, Module, Router, SpladePooling
from stpipe.models.paths import resolve_path
from stpipe.models.sparse_encoder import SparseEncoder
from stpipe.models.sparse_stack import splade_stack
from stpipe.models.splade_check import check_base

CHECK_PAIRS = 64


def is_sparse_model(path: Path) -> bool:
    """Whether a directory holds a model of words already, not only a checkpoint to make one of."""
    return bool({SpladePooling.folder_name(), Router.folder_name()}.intersection(stored_classes(path)))


@dataclass(frozen=True, kw_only=True)
class SpladeOptions(EmbeddingComponent):
    """What every model with a SPLADE side can be asked."""

    kind: ClassVar[str] = "sparse"
    sparsity: ClassVar[str | None] = "regularizer"

    pooling: Literal["max", "sum"] | None = option(
        None, help="How the tokens of a text come to one weight a word: max (SPLADE v2) or sum. None keeps the stored one, else max."
    )
    activation: Literal["relu", "log1p_relu"] | None = option(
        None,
        help="relu is log(1 + relu(logit)), log1p_relu the same logarithm once more, which damps heavy words. None keeps the stored one, else relu.",
    )
    calibrate: bool | None = option(
        None,
        help="Set the bias of each word so that it starts active in active_share of the texts. None does so where the checkpoint has no masked-language-model head and gets one tied to its word embeddings.",
    )
    active_share: float = option(0.02, gt=0, lt=1, help="Share of the texts in which a calibrated word is active before training.")
    calibration_texts: int = option(300, ge=8, help="Training texts that the calibration looks at.")
    check: Literal["refuse", "warn", "off"] = option(
        "refuse", help="What to do about start weights from which SPLADE cannot be trained, such as logits that make all texts alike."
    )
    max_active_dims: int | None = option(
        None, ge=1, help="Words that the saved model keeps of each text; training uses all. None keeps all."
    )

    def lexical_stack(self, path: Path, options: LoadOptions) -> list[Module]:
        """The modules of a stored sparse model (with a Router, too), or backbone, head and pooling of any other checkpoint."""
        if is_sparse_model(path):
            modules = read_modules(path, options=options)
        else:
            modules = splade_stack(path, options, fresh_head=True)
        for pooling in (part for module in modules for part in module.modules() if isinstance(part, SpladePooling)):
            pooling.pooling = self.pooling or pooling.pooling
            pooling.activation = self.activation or pooling.activation
        return modules

    def sparse_encoder(self, modules: list[Module]) -> SparseEncoder:
        """The inference class around the modules, with what the start weights store besides."""
        stored = read_settings(resolve_path(self.name_or_path, revision=self.revision))
        return self.inference_model(SparseEncoder, modules, stored, max_active_dims=self.max_active_dims or stored.max_active_dims)

    def prepare_head(self, model: SparseEncoder, texts: TrainingTexts) -> tuple[str, ...]:
        """Calibrate where that is wanted, then check whether training can start from these weights."""
        backbones = [b for b in model.encoder.backbones if isinstance(b, MaskedLanguageModel)]
        if not backbones:
            raise ConfigError(
                Problem("model.name_or_path", f"'{self.name_or_path}' has no masked-language model, so it is no SPLADE model")
            )
        lines = []
        for backbone in backbones:
            if self.calibrate or (self.calibrate is None and backbone.fresh):
                sample = self._sample(model, backbone, texts)
                done = calibrate_head(backbone, sample, active_share=self.active_share, rescale=backbone.fresh)
                lines.append(done.line())
        pairs = None if self.check == "off" else texts.pairs(CHECK_PAIRS)
        if pairs is not None:
            found = check_base(model, *pairs)
            lines.append(found.line())
            if found.problem and self.check == "refuse":
                raise ConfigError(Problem("model.name_or_path", f"{found.problem} ({found.line()}). model.check=warn trains all the same"))
            if found.problem:
                lines.append(f"warning: {found.problem}")
        return tuple(lines)

    def _sample(self, model: SparseEncoder, backbone: MaskedLanguageModel, texts: TrainingTexts) -> list[Tokens]:
        """Texts of the sides that go through the backbone, in equal parts: queries that are looked up say nothing about its words.
        All texts, where none goes through it."""
        encoder, present = model.encoder, texts.sides()
        through = [side for side in present if backbone in encoder.path_of(side if encoder.routes else None)]
        sides = through or present
        return [part for side in sides for part in texts.tokens(side, self.calibration_texts // len(sides))]


@MODELS.register("splade", aliases=("SparseEncoder",))
@dataclass(frozen=True, kw_only=True)
class SpladeModel(SpladeOptions):
    """SPLADE (arXiv:2109.10086): texts as weights of the words of the vocabulary, from any fill-mask checkpoint.

    An encoder without masked-language-model head gets one that is tied to its word embeddings, and calibrated.
    """

    def build(self) -> SparseEncoder:
        path = resolve_path(self.name_or_path, revision=self.revision)
        return self.sparse_encoder(self.lexical_stack(path, self.load_options()))

    def adapt(self, model: SparseEncoder, texts: TrainingTexts) -> tuple[str, ...]:
        return self.prepare_head(model, texts)
