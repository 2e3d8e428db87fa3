"""Learning from texts alone: an embedding of a damaged text from which the whole text can be written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from stpipe.config.errors import ConfigError, DataError, Problem
from stpipe.config.fields import option
from stpipe.config.registry import LOSSES
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.core.result import LossOutput
from stpipe.losses import citations
from stpipe.losses.base import Loss, ModelFacts


@LOSSES.register("denoising_auto_encoder", aliases=("DenoisingAutoEncoderLoss", "tsdae"))
@dataclass(frozen=True)
class DenoisingAutoEncoderLoss(Loss):
    """TSDAE: a decoder that sees nothing but the embedding of a text with words deleted writes the whole text.

        L = -(sum over texts i and places t > 1 of log p(w_it | w_i1 ... w_i,t-1, x_i)) / number of such places

    The collator deletes the words, anew in every epoch. The decoder has the layers of the backbone, with a cross-attention to the one
    vector x_i; with tie_encoder_decoder their weights are one with the encoder's. It is trained beside the model and dropped with it.
    Source: arXiv:2104.06979 section 3.1. Shapes: anchor (B, D); tokens of B texts. Coupling: row. Count: tokens to be written.
    """

    coupling: ClassVar[str] = "row"
    counts: ClassVar[str] = "tokens"
    formats: ClassVar[tuple[str, ...]] = ("text",)
    learns: ClassVar[str | None] = "always"
    citation: ClassVar[str] = citations.TSDAE

    del_ratio: float = option(0.6, ge=0, lt=1, help="Share of the words that are deleted; one at least is kept.")
    decoder_name_or_path: str | None = option(
        None,
        help="Start weights of a decoder of its own, with tie_encoder_decoder: false and the same vocabulary. None: those of the encoder.",
    )
    tie_encoder_decoder: bool = option(True, help="Share all weights that encoder and decoder have in common.")

    def __post_init__(self) -> None:
        if self.tie_encoder_decoder and self.decoder_name_or_path is not None:
            raise ConfigError(
                Problem("decoder_name_or_path", "has no effect with tie_encoder_decoder: true; set that to false, or remove this key")
            )
        if not self.tie_encoder_decoder and self.decoder_name_or_path is None:
            raise ConfigError(
                Problem("decoder_name_or_path", "names the start weights of a decoder that is not tied to the encoder; set it")
            )

    def deleted_words(self) -> float:
        return self.del_ratio

    def learned(self, model: ModelFacts) -> nn.Module | None:
        if model.decoder is None:
            raise ConfigError(Problem("loss.name", "'denoising_auto_encoder' needs a model with a transformer to make a decoder of"))
        return model.decoder(self.decoder_name_or_path)

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        tokens = batch.targets.tokens
        if tokens is None:
            raise DataError(
                "loss 'denoising_auto_encoder' needs the whole texts beside the damaged ones, but the batch has none. Make batches with "
                "stpipe.data.noise.NoisyCollator"
            )
        nll, count = self.own(ctx)(batch.local("anchor"), tokens)
        return LossOutput(nll.sum(), count.sum().to(nll.dtype))
