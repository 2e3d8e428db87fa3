"""A model as one graph of padded texts, as exporters and other runtimes see it.

Shape legend: N texts, L tokens of the longest one, D width of a vector, V words, C scores.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.functional import linear

from stpipe.config.errors import ConfigError
from stpipe.models.modules import MaskedLanguageModel
from stpipe.models.modules.transformer import Transformer

#: Task of a backbone -> name of the output that the format expects of its graph.
TASK_OUTPUTS = {
    "feature-extraction": "last_hidden_state",
    "fill-mask": "logits",
    "sequence-classification": "logits",
    "text-generation": "logits",
}
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
#: Sizes that a traced graph takes. Torch wants bounds; the upper ones are far above what anybody feeds.
MOST_TEXTS, MOST_TOKENS = 1 << 16, 1 << 20
EXAMPLE = ((7, 4), (5, 7), (2, 2))  # the example that is traced: (tokens, of which the prompt has so many) of each text


class BackboneGraph(nn.Module):
    """The backbone alone: padded tokens -> last_hidden_state (N, L, D) or logits (N, L, V), (N, C)."""

    def __init__(self, backbone: Transformer) -> None:
        super().__init__()
        self.model = backbone.model
        self.vocabulary = isinstance(backbone, MaskedLanguageModel) and backbone.vocabulary is not None
        self.output = TASK_OUTPUTS[backbone.task]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        out = self.model(input_ids=input_ids, attention_mask=attention_mask, **types)
        values: Tensor = out[self.output]
        if not self.vocabulary:
            return values
        layer = self.model.get_output_embeddings()  # its head was taken apart, so it hands on what the words are multiplied with
        return linear(values, layer.weight, layer.bias)


def backbone_graph(backbone: Transformer) -> tuple[BackboneGraph, tuple[str, ...]]:
    """The graph of a backbone as the format has it, and the names of its inputs: segments only where tokenizer and model know them."""
    types = backbone.takes_types and "token_type_ids" in backbone.tokenizer.model_input_names
    return BackboneGraph(backbone), INPUTS if types else INPUTS[:2]


def trace(graph: nn.Module, *, inputs: Sequence[str], vocabulary: int, longest: int | None) -> ExportedProgram:
    """The graph as torch records it, for any number of texts of any length.

    Args:
        graph: its forward takes `inputs` by name, in this order; every backbone in it must be in the padded layout.
        inputs: among input_ids, attention_mask, token_type_ids (N, L) and prompt_lengths (N,), all int64.
        vocabulary: number of token ids that are valid.
        longest: tokens that the positions of the model reach; None when it has no limit.

    Raises:
        ConfigError: torch cannot record the model; the message says what it stumbled over.
    """
    texts, tokens = Dim("texts", min=1, max=MOST_TEXTS), Dim("tokens", min=1, max=longest or MOST_TOKENS)
    example = examples(vocabulary)
    shapes = {name: {0: texts} if name == "prompt_lengths" else {0: texts, 1: tokens} for name in inputs}
    with torch.no_grad(), quiet():
        try:
            given = {name: example[name] for name in inputs}
            return torch.export.export(graph, (), given, dynamic_shapes=shapes, strict=False)
        except Exception as error:  # whatever a foreign model's code does under torch.export
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"this model cannot be recorded as a graph by torch {torch.__version__} ({type(error).__name__}: {first[:300]}). "
                "Leave this export out, or set model.attn=eager, whose attention is the plainest"
            ) from error


def examples(vocabulary: int) -> dict[str, Tensor]:
    """Inputs to trace with: texts of different lengths, because a graph recorded without padding may have lost its mask."""
    lengths = torch.tensor([length for length, _ in EXAMPLE])
    longest = int(lengths.max())
    mask = (torch.arange(longest)[None] < lengths[:, None]).long()
    ids = torch.arange(mask.numel()).reshape(mask.shape) % max(1, vocabulary - 1) + 1
    return {
        "input_ids": ids * mask,
        "attention_mask": mask,
        "token_type_ids": (torch.arange(longest)[None] > 2).long() * mask,
        "prompt_lengths": torch.tensor([prompt for _, prompt in EXAMPLE]),
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what exporters say about packages that are not needed and about their own code."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript", "nncf")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def vocabulary_of(model: Any) -> int:
    """Number of token ids that a transformers model takes."""
    return int(model.config.get_text_config().vocab_size)
