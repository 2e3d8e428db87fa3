"""The objectives of all data sets as one module: what they learn is wrapped, clipped, saved and resumed with the model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import nn

from stpipe.core.context import derive_seed
from stpipe.losses.base import Loss, ModelFacts
from stpipe.losses.objective import Objective
from stpipe.models.decoder import make_decoder
from stpipe.models.encoder import Encoder


def model_facts(encoder: Encoder) -> ModelFacts:
    """What losses may know of an encoder."""
    if not encoder.backbones:
        return ModelFacts(encoder.embedding_dim)
    return ModelFacts(encoder.embedding_dim, encoder.backbone.num_layers, partial(make_decoder, encoder))


class Objectives(nn.Module):
    """Data set -> its objective. Parameters are called SOURCE.learned.CLASS.NAME, and there are none unless a loss learns something.

    Args:
        losses: data set name -> its loss.
        model: the model that they are to train.
        seed: of the start values, which differ between data sets.
    """

    def __init__(self, losses: Mapping[str, Loss], model: ModelFacts, *, seed: int) -> None:
        super().__init__()
        self.places: dict[str, str] = {}
        for source, loss in losses.items():
            # Names of modules have no dots, and none of the attributes of a module.
            place = source.replace(".", "_")
            while hasattr(self, place):
                place += "_"
            self.places[source] = place
            self.add_module(place, Objective(loss, model, seed=derive_seed(seed, *source.encode())))

    def __getitem__(self, source: str) -> Objective:
        return self.get_submodule(self.places[source])  # type: ignore[return-value]

    @property
    def losses(self) -> dict[str, Loss]:
        """Data set -> its loss with what it derives from the model."""
        return {source: self[source].loss for source in self.places}

    @property
    def learning(self) -> tuple[str, ...]:
        """The data sets whose objective has parameters. With several data sets a batch of another one leaves these without a gradient."""
        return tuple(source for source in self.places if any(True for _ in self[source].parameters()))
