"""The `cross_encoder` model: a backbone that reads two texts together, and a head that scores them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from stpipe.config.fields import option
from stpipe.config.registry import MODELS
from stpipe.models.chat_pairs import message_format
from stpipe.models.component import ModelComponent, TrainingTexts
from stpipe.models.cross_encoder import CrossEncoder
from stpipe.models.cross_encoder_stack import cross_encoder_stack
from stpipe.models.format import LoadOptions, read_settings
from stpipe.models.modules import SequenceClassifier
from stpipe.models.paths import resolve_path
from stpipe.ops.activations import ActivationName


@MODELS.register("cross_encoder", aliases=("CrossEncoder",))
@dataclass(frozen=True, kw_only=True)
class CrossEncoderModel(ModelComponent):
    """A cross-encoder, from a CrossEncoder directory, a sequence-classification checkpoint, a causal language model, or any encoder,
    which gets a new head.

    Weights are float32 whatever the checkpoint holds; trainer.precision says what is computed with.
    """

    kind: ClassVar[str] = "cross_encoder"

    num_labels: int | None = option(
        None,
        ge=1,
        help="Outputs of the head: 1 for a score, or the number of classes. Another number than the stored one makes a new head. None keeps the stored one; a new head gets 1.",
    )
    activation: ActivationName | None = option(
        None,
        help="Class of torch.nn that scores go through when the model is used; losses see the outputs before it. None keeps the stored one, else Sigmoid for one output and Identity for several.",
    )
    head_dropout: float | None = option(None, ge=0, lt=1, help="Dropout in the classification head; None keeps the model's own.")

    true_token: str | None = option(
        None,
        help="For a causal language model: the token that it says of a document that answers the query. None keeps the stored one, else yes.",
    )
    false_token: str | None = option(
        None, help="For a causal language model: the token that it says of any other document. None keeps the stored one, else no."
    )
    chat_template: str | None = option(
        None,
        help="Jinja template of a pair, from messages of the roles query and document (and system, for a prompt). None keeps the tokenizer's; without one the two texts are simply joined.",
    )

    def build(self) -> CrossEncoder:
        path = resolve_path(self.name_or_path, revision=self.revision)
        stored = read_settings(path)
        modules = cross_encoder_stack(path, stored, self.load_options(), true_token=self.true_token, false_token=self.false_token)
        self.set_input(modules[0])
        model = CrossEncoder(
            modules=modules,
            num_labels=self.num_labels,
            device=self.start_device,
            prompts={**stored.prompts, **self.prompts},
            default_prompt_name=stored.default_prompt_name,
            activation_fn=self.activation or stored.activation,
            trust_remote_code=self.trust_remote_code,
        )
        _ = model.pair_input  # refuses a chat template that has no place for pairs before any data is read
        return self.finish(model)

    def load_options(self) -> LoadOptions:
        return replace(super().load_options(), num_labels=self.num_labels, head_dropout=self.head_dropout)

    def set_input(self, backbone: Any) -> None:
        """Give the tokenizer the chat template that was asked for."""
        if self.chat_template is not None:
            backbone.tokenizer.chat_template = self.chat_template
            backbone.message_format = message_format(backbone.tokenizer)

    def adapt(self, model: Any, texts: TrainingTexts) -> tuple[str, ...]:
        """Say which weights are new; nothing is set from the data."""
        fresh = [name for part in model.encoder.parts() if isinstance(part, SequenceClassifier) for name in part.fresh]
        return (f"new head with {model.num_labels} outputs, drawn anew: {', '.join(fresh)}",) if fresh else ()
