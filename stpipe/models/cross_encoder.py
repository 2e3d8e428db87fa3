"""The inference class of cross-encoders, with the methods and parameters of the sentence-transformers documentation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from stpipe.config.errors import ConfigError
from stpipe.config.formats import QUERY_ROLES
from stpipe.core.pairs import PairTemplate
from stpipe.core.tokens import Tokens
from stpipe.models import inference
from stpipe.models.base_model import BaseModel, LoadArguments
from stpipe.models.cross_encoder_stack import cross_encoder_stack
from stpipe.models.format import CROSS_ENCODER, LoadOptions, Settings
from stpipe.models.modules import Module
from stpipe.models.pair_input import Pair, PairInput, as_pairs
from stpipe.models.renamed import current_names, renamed
from stpipe.models.score_activation import Activation, activation_path, as_activation, default_activation

if TYPE_CHECKING:
    from typing import Unpack

logger = logging.getLogger("stpipe")

#: Names of arguments in versions before 4.0 -> those of today.
OLD_NAMES = {
    "model_name": "model_name_or_path",
    "automodel_args": "model_kwargs",
    "tokenizer_args": "processor_kwargs",
    "config_args": "config_kwargs",
    "cache_dir": "cache_folder",
    "default_activation_function": "activation_fn",
}


class OldArguments(LoadArguments, total=False):
    """Arguments of BaseModel, and the old names of some."""

    model_name: str
    automodel_args: dict[str, Any]
    tokenizer_args: dict[str, Any]
    config_args: dict[str, Any]
    cache_dir: str
    default_activation_function: Activation
    classifier_dropout: float


class CrossEncoder(BaseModel):
    """A model of pairs of texts: a score for each pair, or one for each class.

    Args:
        model_name_or_path: directory, package://MODULE/SUBDIR or Hub id, of a CrossEncoder of sentence-transformers or of any
            transformers checkpoint. One that has no classification head gets a new one, to be trained.
        num_labels: outputs of the head. Another number than the stored one makes a new head. None keeps the stored one, else 1.
        max_length: longest pair in tokens, special tokens included; the longer text is cut first. None keeps the stored limit.
        activation_fn: what scores go through: a callable, a class of torch.nn by name, or a dotted path. None is the stored one, else
            Sigmoid for one output and Identity for several.
        options: see BaseModel; the names of old versions work, too.
    """

    kind: ClassVar[str] = "cross_encoder"
    model_type: ClassVar[str] = CROSS_ENCODER

    activation_fn: Activation

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: Activation | str | None = None,
        **options: Unpack[OldArguments],
    ) -> None:
        given: dict[str, Any] = current_names(options, OLD_NAMES)
        name, activation_fn = given.pop("model_name_or_path", model_name_or_path), given.pop("activation_fn", activation_fn)
        dropout = given.pop("classifier_dropout", None)
        if dropout is not None:
            renamed("classifier_dropout", f"config_kwargs={{'classifier_dropout': {dropout}}}")
        load = {"num_labels": num_labels, "max_seq_length": max_length, "head_dropout": dropout}
        super().__init__(name, load=load, **given)
        if num_labels not in (None, self.num_labels):
            raise ConfigError(f"num_labels is {num_labels}, but the last module of this model has {self.num_labels} outputs of its own")
        if max_length is not None:
            self.max_seq_length = max_length
        trusted = bool(given.get("trust_remote_code"))
        chosen = activation_fn if activation_fn is not None else self.stored.activation
        self.activation_fn = default_activation(self.num_labels) if chosen is None else as_activation(chosen, trusted=trusted)

    @classmethod
    def read_stack(cls, path: Path, settings: Settings, options: LoadOptions) -> list[Module]:
        return cross_encoder_stack(path, settings, options)

    def __setattr__(self, name: str, value: Any) -> None:
        # torch would make an activation that is a module a part of the model, and then take nothing but modules.
        if name == "activation_fn":
            object.__setattr__(self, name, as_activation(value))
        else:
            super().__setattr__(name, value)

    @property
    def num_labels(self) -> int:
        """Scores of a pair."""
        return self.encoder.embedding_dim

    @property
    def max_length(self) -> int | None:
        """Old name of max_seq_length."""
        renamed("max_length", "max_seq_length")
        return self.max_seq_length

    @max_length.setter
    def max_length(self, limit: int | None) -> None:
        renamed("max_length", "max_seq_length")
        self.max_seq_length = limit

    # Scores

    def predict(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | str | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | torch.device | None = None,
        *,
        sentences: Any = None,
    ) -> Any:
        """Scores of pairs of texts: (N,) for a model with one output, else (N, C).

        Args:
            inputs: one pair (the result is one score, or (C,)) or several: lists, tuples, arrays or a column of a data set.
            prompt_name: name of a prompt of the model.
            prompt: text put before the first text of each pair; wins over prompt_name, which wins over the default prompt.
            batch_size: bounds the memory of a forward: no more tokens than so many pairs of the maximum length.
            show_progress_bar: None shows it when the logger `stpipe` is at INFO or DEBUG.
            activation_fn: what scores go through; None is the model's own.
            apply_softmax: make the scores of the classes of each pair add up to 1.
            convert_to_numpy: an array; False gives a list of tensors.
            convert_to_tensor: one tensor on the device; wins over convert_to_numpy.
            device: move the model there first.
            sentences: old name of inputs.
        """
        if sentences is not None:
            renamed("sentences", "inputs")
            inputs = sentences
        pairs, single = as_pairs(inputs)
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        if device is not None:
            self.to(device)
        activation = self.activation_fn if activation_fn is None else as_activation(activation_fn)
        to_cpu = convert_to_numpy and not convert_to_tensor
        logits = self._logits(pairs, self.resolve_prompt(prompt, prompt_name), batch_size, show_progress_bar, to_cpu=to_cpu)
        with torch.inference_mode():
            values = activation(logits)
            if self.num_labels == 1 and values.ndim > 1:
                values = values.squeeze(-1)
            if apply_softmax and values.ndim > 1:
                values = values.softmax(dim=1)
        result = values if convert_to_tensor else as_array(values) if convert_to_numpy else list(values)
        return result[0] if single else result

    def _logits(self, pairs: Sequence[Pair], prompt: str, batch_size: int, show_progress_bar: bool | None, *, to_cpu: bool) -> Tensor:
        """(N, C) outputs of the model."""
        show = logger.isEnabledFor(logging.INFO) if show_progress_bar is None else show_progress_bar
        job = inference.Job(pairs, prompt, batch_size, self.max_seq_length, show)
        with self.inference():
            return inference.scores(self.encoder, job, self._tokens_of(job), to_cpu=to_cpu)

    def perform(self, work: inference.Work, share: inference.Share, place: inference.Place) -> None:
        with self.inference():
            inference.perform(self.encoder, work, share, place, self._tokens_of(work.job))

    def _tokens_of(self, job: inference.Job) -> inference.TokensOf:
        return lambda places: self.pair_tokens([(job.texts[i][0], job.texts[i][1]) for i in places], job.prompt)

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | str | None = None,
        device: str | torch.device | None = None,
    ) -> list[dict[str, Any]]:
        """The documents by falling score for a query: dicts with corpus_id, score and, with return_documents, text.

        Args:
            query: the query.
            documents: what is ranked.
            top_k: only the best so many; None gives all.
            return_documents: also give the texts.
            prompt_name, prompt, batch_size, show_progress_bar, activation_fn, device: see `predict`.
        """
        if self.num_labels != 1:
            raise ConfigError(f"rank needs one score for each pair, but this model has {self.num_labels} outputs; use predict")
        found: list[float] = self.predict(
            [(query, document) for document in documents],
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            activation_fn,
            convert_to_tensor=True,
            device=device,
        ).tolist()
        order = sorted(range(len(found)), key=lambda i: -found[i])[:top_k]
        return [{"corpus_id": i, "score": found[i], **({"text": documents[i]} if return_documents else {})} for i in order]

    def training_prompts(self) -> dict[str, str]:
        """The default prompt, which `predict` puts before the first text of each pair."""
        return dict.fromkeys(QUERY_ROLES, self.resolve_prompt(None, None))

    # Pairs

    def pair_tokens(self, pairs: Sequence[Pair], prompt: str = "") -> Tokens:
        """Tokens of pairs as the model takes them, cut to its maximum length, on the CPU.

        prompt: put before the first text of each pair.
        """
        return self.pair_input.tokens(pairs, prompt=prompt, max_length=self.max_seq_length)

    @property
    def pair_input(self) -> PairInput:
        """How pairs are laid out; follows a change of the tokenizer or of its chat template."""
        entry = self.encoder.input_of()
        form = getattr(entry, "message_format", None)
        key = (entry.tokenizer, form, getattr(entry.tokenizer, "chat_template", None))
        if self._pair_input is None or self._pair_input[0] != key:
            self._pair_input = (key, PairInput.of(entry.tokenizer, message_format=form))
        return self._pair_input[1]

    _pair_input: tuple[Any, PairInput] | None = None

    @property
    def pair_template(self) -> PairTemplate | None:
        """How the tokens of two texts are joined; None where only the tokenizer itself, or its chat template, can make pairs."""
        return self.pair_input.template

    # Storage

    def settings(self) -> Settings:
        return replace(super().settings(), activation=activation_path(self.activation_fn))


def as_array(values: Tensor) -> np.ndarray[Any, Any]:
    """Scores as an array; numpy has no bfloat16."""
    return (values.float() if values.dtype == torch.bfloat16 else values).cpu().numpy()
