"""Sparse models of all types on the real weights of the extra `offline`, saved as a run saves them."""

from __future__ import annotations

from pathlib import Path

from stpipe.core.tokens import Tokens
from stpipe.models.csr import CSRModel
from stpipe.models.inference_free import InferenceFreeSpladeModel
from stpipe.models.splade import SpladeModel

DOCUMENTS = (
    "Read a file line by line with a for loop over the open file object.",
    "Water boils at 100 degrees Celsius at sea level, and at less on a mountain.",
    "He took the last train home from the stadium after the match.",
    "A list keeps its elements in order; a set does not, and has each only once.",
    "It is sunny outside and the weather will stay warm all week.",
    "The museum opens at nine and closes at five on every day but Monday.",
    "Iterate over a dictionary with items to get each key and its value.",
    "She planted tomatoes, beans and a row of onions behind the house.",
)
QUERIES = ("how to read a file", "boiling point of water", "when does the museum open", "loop over a dictionary")
MODELS = {
    "splade": lambda name: SpladeModel(name, check="off"),
    "splade_inference_free": lambda name: InferenceFreeSpladeModel(name, check="off"),
    "csr": lambda name: CSRModel(name, max_seq_length=100),
}


class Texts:
    """The training texts that new heads are set from; see models/component.py."""

    def __init__(self, tokenizer: object) -> None:
        self.tokenizer = tokenizer

    def sides(self) -> tuple[str, ...]:
        return "document", "query"

    def tokens(self, side: str, limit: int, per_part: int = 32) -> list[Tokens]:
        ids = self.tokenizer(list(QUERIES if side == "query" else DOCUMENTS))["input_ids"]  # type: ignore[operator]
        return [Tokens.from_lists(ids)]

    def pairs(self, limit: int) -> None:
        return None


def save_sparse(name: str, base: Path, folder: Path) -> Path:
    """A model of a registered type on the weights in `base`, made ready for training, in `folder`."""
    component = MODELS[name](str(base))
    model = component.build()
    component.adapt(model, Texts(model.encoder.input_of("document" if "document" in model.encoder.routes else None).tokenizer))
    model.save_pretrained(folder)
    return folder
