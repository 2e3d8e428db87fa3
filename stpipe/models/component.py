"""What all model components have in common: where the weights come from and how the backbone runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from stpipe.config.errors import ConfigError
from stpipe.config.fields import option
from stpipe.core.tokens import Tokens
from stpipe.models.base_model import BaseModel
from stpipe.models.embedding_model import EmbeddingModel
from stpipe.models.format import LoadOptions, Settings
from stpipe.models.modules import Module

M = TypeVar("M", bound=BaseModel)
E = TypeVar("E", bound=EmbeddingModel)


class TrainingTexts(Protocol):
    """The tokens that a model will be trained on, for what has to be set from data before training."""

    def sides(self) -> tuple[str, ...]:
        """The sides that any of the texts are on, sorted: routes of the model's Router, or without one `document` and `query`."""
        ...

    def tokens(self, side: str, limit: int, per_part: int = 32) -> list[Tokens]:
        """At most `limit` texts of one of the sides, spread over the data, `per_part` at a time."""
        ...

    def pairs(self, limit: int) -> tuple[Tokens, Tokens] | None:
        """At most `limit` texts of the side `query` and the one of the side `document` that belongs to each; None for data without
        such pairs."""
        ...


@dataclass(frozen=True)
class ModelComponent(ABC):
    """Weights are float32 whatever the checkpoint holds; trainer.precision says what is computed with.

    Class attributes (they go into the schema, where `validate` reads them without torch):
        kind: "dense", "sparse" or "cross_encoder".
        sparsity: what keeps its representations sparse: "regularizer" (a loss that makes every active term cost),
            "autoencoder" (one that trains its SparseAutoEncoder), None: nothing has to.
        routes: ways through a Router that texts can take; None: those of the start weights, if any.
        lookups: route without a network -> names of its weights, as `optimizer.groups` matches them.
    """

    kind: ClassVar[str]
    sparsity: ClassVar[str | None] = None
    routes: ClassVar[list[str] | None] = None
    lookups: ClassVar[dict[str, list[str]]] = {}

    name_or_path: str = option(help="Directory, `package://MODULE/SUBDIR` or Hub id of the start weights.")
    _: KW_ONLY
    prompts: Mapping[str, str] = option(
        help="Name -> prompt, saved with the model; `query` and `document` are used by encode_query and encode_document.", factory=dict
    )
    max_seq_length: int | None = option(None, ge=2, help="Longest text in tokens, special tokens included; None keeps the model's own.")
    hidden_dropout: float | None = option(None, ge=0, lt=1, help="Dropout of hidden states in the backbone; None keeps the model's own.")
    attention_dropout: float | None = option(
        None,
        ge=0,
        lt=1,
        help="Dropout of attention weights in the backbone; None keeps the model's own. 0 is about a fifth faster on a CPU.",
    )
    layout: Literal["auto", "packed", "padded"] = option(
        "auto", help="auto packs texts without padding where a self-check finds that exact, else pads."
    )
    attn: Literal["auto", "eager", "sdpa", "flash_attention_2"] = option(
        "auto", help="Attention of the padded layout; anything but auto also turns packing off."
    )
    device_map: str | None = option(None, help="Spread the backbone over devices (`auto`); for inference and very large models only.")
    revision: str | None = option(None, help="Branch, tag or commit of a Hub model.")
    trust_remote_code: bool = option(False, help="Allow code that a Hub model ships. Read it first.")

    @abstractmethod
    def build(self) -> BaseModel:
        """Load the weights and put the stack together, on the CPU. New layers are drawn from torch's global generator."""

    def adapt(self, model: Any, texts: TrainingTexts) -> tuple[str, ...]:
        """Set what depends on the data, before training; returns what was done and found, a line each."""
        return ()

    def load_options(self) -> LoadOptions:
        """How the backbone is loaded."""
        if self.layout == "packed" and self.attn != "auto":
            raise ConfigError(
                f"model.layout=packed brings its own attention and cannot be combined with model.attn={self.attn}; remove one"
            )
        remote: dict[str, Any] = {"trust_remote_code": True} if self.trust_remote_code else {}
        placed = {"device_map": self.device_map} if self.device_map else {}
        attention = {} if self.attn == "auto" else {"attn_implementation": self.attn}
        return LoadOptions(
            model={"dtype": "float32", **placed, **attention, **remote},
            tokenizer=remote,
            config=remote,
            hidden_dropout=self.hidden_dropout,
            attention_dropout=self.attention_dropout,
            max_seq_length=self.max_seq_length,
        )

    @property
    def start_device(self) -> str | None:
        """Where the model is put at first; None leaves it where device_map put it."""
        return None if self.device_map else "cpu"

    def finish(self, model: M) -> M:
        """What is the same for all kinds: the name, and a layout that was asked for."""
        model.name_or_path = self.name_or_path
        if self.layout != "auto" or self.attn != "auto":
            model.encoder.layout = "packed" if self.layout == "packed" else "padded"
        return model


@dataclass(frozen=True, kw_only=True)
class EmbeddingComponent(ModelComponent):
    """Models that give embeddings, which are compared by a similarity.

    Class attributes:
        similarities: functions that its embeddings can be compared with.
    """

    similarities: ClassVar[list[str]] = ["cosine", "dot", "euclidean", "manhattan"]

    similarity: Literal["cosine", "dot", "euclidean", "manhattan"] | None = option(
        None, help="Similarity that the model is meant for; None keeps the stored one, else cosine for dense and dot for sparse models."
    )

    def inference_model(self, cls: type[E], modules: Sequence[Module], stored: Settings, **own: Any) -> E:
        """The inference class around the modules, with what the start weights store besides.

        Args:
            cls: the inference class.
            modules: its modules.
            stored: settings of the start weights. A similarity that is meant for another kind of model is not taken over.
            own: arguments that only this class has.
        """
        similarity = stored.similarity if stored.model_type == cls.model_type else None
        model = cls(
            modules=modules,
            device=self.start_device,
            prompts={**stored.prompts, **self.prompts},
            default_prompt_name=stored.default_prompt_name,
            similarity_fn_name=self.similarity or similarity,
            **own,
        )
        return self.finish(model)
