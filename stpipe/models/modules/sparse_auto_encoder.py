"""A dense embedding as a few of many learned features (CSR)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from stpipe.config.errors import ConfigError
from stpipe.models.modules.module import Features, Module, fill, read_config, read_weights
from stpipe.ops.convert import full_precision, upcast

#: Features that a loss may ask for, all (N, D); losses/csr.py says what it does with them.
OUTPUTS = frozenset({"sae_input", "sae_k", "sae_4k", "sae_aux", "sae_aux_target"})
ACTIVE = 1e-5  # a latent counts as having fired above this
EPS = 1e-5
ENCODER_KEY, DECODER_KEY = "encoder.weight", "decoder.linear.weight"


class SparseAutoEncoder(Module):
    """The k largest of H latents of an embedding x (N, D), those above zero.

        z = W (x - b_pre) + b_latent,   s = relu(top_k(z)) (N, H),   x_k = W^T s + b_pre

    With `normalize` x is first shifted and scaled to mean 0 and standard deviation 1 over its D entries, and x_k back.
    W is stored once: the decoder is its transpose. Source: arXiv:2503.01776 section 3.2; arXiv:2406.04093 for the latents
    that never fire. Computed in at least float32, also under autocast: half precision makes ties of the k-th largest.

    A loss can ask for OUTPUTS by features["outputs"]: sae_input is x; sae_k and sae_4k are x from k and from 4k latents;
    sae_aux_target is what x_k leaves unexplained, x - W^T s with s held fixed; sae_aux is W^T a + b_pre, its reconstruction
    from a, the k_aux largest latents among the dead ones (only b_pre, scaled, while none is dead). k_aux 0: sae_aux is
    the target itself, an error of zero.

    A latent is dead after more than dead_threshold optimiser steps in which it was in no text's k largest. The forward only
    notes who fired, so it may run any number of times for a batch; `advance` counts, once a step. In training a forward
    uses the counts of the step's beginning, so all micro-batches of a step, and their recomputation, see the same.

    Args:
        input_dim: D.
        hidden_dim: H.
        k: latents kept; features["max_active_dims"] takes its place where given.
        k_aux: latents that reconstruct the rest; 0 for none. At most all H.
        normalize: see above.
        dead_threshold: see above.

    Raises:
        ConfigError: k is not between 1 and H, or k_aux is negative.
    """

    type_name = "sentence_transformers.sparse_encoder.modules.sparse_auto_encoder.SparseAutoEncoder"
    stats_last_nonzero: Tensor
    fired: Tensor

    def __init__(
        self, input_dim: int, *, hidden_dim: int = 512, k: int = 8, k_aux: int = 512, normalize: bool = False, dead_threshold: int = 30
    ) -> None:
        super().__init__()
        if not 1 <= k <= hidden_dim:
            raise ConfigError(f"SparseAutoEncoder: k is {k}; it must be between 1 and hidden_dim, which is {hidden_dim}")
        if k_aux < 0:
            raise ConfigError(f"SparseAutoEncoder: k_aux is {k_aux}; it must be 0 (none) or more")
        self.input_dim = input_dim
        self.hidden_dim = hidden_dim
        self.k = k
        self.k_aux = k_aux
        self.normalize = normalize
        self.dead_threshold = dead_threshold
        self.pre_bias = nn.Parameter(torch.zeros(input_dim))
        self.latent_bias = nn.Parameter(torch.zeros(hidden_dim))
        # Both directions use this layer; it hangs where the format keeps it, so that it is stored once and under that name.
        self.decoder = nn.ModuleDict({"linear": nn.Linear(input_dim, hidden_dim, bias=False)})
        self.register_buffer("stats_last_nonzero", torch.zeros(hidden_dim, dtype=torch.int64))
        self.register_buffer("fired", torch.zeros(hidden_dim, dtype=torch.bool), persistent=False)

    @property
    def weight(self) -> nn.Parameter:
        """W (H, D)."""
        return self.decoder["linear"].weight  # type: ignore[return-value]

    def forward(self, features: Features) -> dict[str, Any]:
        """Sets sentence_embedding (N, H) of sentence_embedding (N, D), and the OUTPUTS when one of them is asked for."""
        k = features.get("max_active_dims") or self.k
        x = features["sentence_embedding"]
        with full_precision(x):
            x = x.to(upcast(self.weight).dtype)
            standard, shift, scale = self.standardize(x)
            latents = linear(standard - self.pre_bias, upcast(self.weight), upcast(self.latent_bias))
            kept = keep_largest(latents, k)
            if self.training and torch.is_grad_enabled():
                self.note_fired(kept)
            out = {**features, "sentence_embedding": kept}
            if OUTPUTS & features.get("outputs", frozenset()):
                out.update(self.reconstructions(x, latents, kept, shift=shift, scale=scale, k=k))
        return out

    def standardize(self, x: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """x (N, D) as the encoder takes it, and the shift and scale (N, 1) that lead back."""
        if not self.normalize:
            return x, 0.0, 1.0
        shift = x.mean(-1, keepdim=True)
        scale = (x - shift).std(-1, keepdim=True)
        return (x - shift) / (scale + EPS), shift, scale

    def reconstructions(
        self, x: Tensor, latents: Tensor, kept: Tensor, *, shift: Tensor | float, scale: Tensor | float, k: int
    ) -> dict[str, Tensor]:
        """The OUTPUTS, see the class."""
        bias = upcast(self.pre_bias)
        x_k = (self.decode(kept) + bias) * scale + shift
        target = x - (x_k - bias * scale).detach()  # as the format's loss has it, the bias keeps no gradient here
        if self.k_aux:
            dead = self.stats_last_nonzero > self.dead_threshold
            aux = (self.decode(keep_largest(latents * dead, self.k_aux)) + bias) * scale
        else:
            aux = target
        return {
            "sae_input": x,
            "sae_k": x_k,
            "sae_4k": (self.decode(keep_largest(latents, 4 * k)) + bias) * scale + shift,
            "sae_aux": aux,
            "sae_aux_target": target,
        }

    def decode(self, latents: Tensor) -> Tensor:
        """(N, H) -> (N, D): latents times W, without bias and scale."""
        return latents @ upcast(self.weight)

    @torch.no_grad()
    def note_fired(self, kept: Tensor) -> None:
        """Remember until the next `advance` which latents are active in some text of kept (N, H)."""
        self.fired.logical_or_((kept > ACTIVE).any(0))

    @torch.no_grad()
    def advance(self, reduce_max: Callable[[Tensor], Tensor] | None = None) -> None:
        """Count one optimiser step: 0 for the latents that fired in it, one more for the others.

        Args:
            reduce_max: elementwise maximum of a uint8 tensor over all processes; None with one process.
        """
        fired = self.fired if reduce_max is None else reduce_max(self.fired.to(torch.uint8)).bool()
        self.stats_last_nonzero.add_(1).masked_fill_(fired, 0)
        self.fired.zero_()

    @torch.no_grad()
    def forget(self) -> None:
        self.fired.zero_()

    def output_dim(self, input_dim: int) -> int:
        return self.hidden_dim

    def config(self) -> dict[str, Any]:
        return {
            "input_dim": self.input_dim,
            "hidden_dim": self.hidden_dim,
            "k": self.k,
            "k_aux": self.k_aux,
            "normalize": self.normalize,
            "dead_threshold": self.dead_threshold,
        }

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> SparseAutoEncoder:
        if "input_dim" not in values:
            raise ConfigError("SparseAutoEncoder: config.json has no input_dim, the width of the embeddings that it takes")
        return cls(
            int(values["input_dim"]),
            hidden_dim=int(values.get("hidden_dim", 512)),
            k=int(values.get("k", 8)),
            k_aux=int(values.get("k_aux", 512) or 0),
            normalize=bool(values.get("normalize", False)),
            dead_threshold=int(values.get("dead_threshold", 30)),
        )

    @classmethod
    def load(cls, directory: Path) -> SparseAutoEncoder:
        """Read a folder; files may hold the shared weight under the encoder's name, the decoder's or both."""
        module = cls.from_config(read_config(directory))
        weights = read_weights(directory, cls.__name__)
        encoder = weights.pop(ENCODER_KEY, None)
        if encoder is not None:
            weights.setdefault(DECODER_KEY, encoder)
        fill(module, weights, directory)
        return module


def keep_largest(x: Tensor, k: int) -> Tensor:
    """(N, H) with all but the k largest entries of each row set to 0, and of those all below 0; all H when k is larger."""
    top = torch.topk(x, min(k, x.shape[-1]), dim=-1)
    return torch.zeros_like(x).scatter(-1, top.indices, top.values.relu())
