"""The CSR objective as a Python loop over rows in float64.

Values are codes by role (`anchor`) and what the autoencoder gave with them (`anchor/sae_k`), lists of vectors with gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Values = Mapping[str, Tensor]


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a)  # type: ignore[return-value]


def csr(values: Values, targets: Tensor | None, *, main: Callable[..., Tensor], beta: float = 0.1, gamma: float = 1.0) -> Tensor:
    codes = {role: x for role, x in values.items() if "/" not in role}
    total = gamma * main(codes, targets)
    for role in codes:
        x, y, z, e, r = (values[f"{role}/sae_{name}"] for name in ("input", "k", "4k", "aux", "aux_target"))
        rows = range(len(x))
        centre = sum(r[i] for i in rows) / len(x)
        spread = sum(squared_distance(r[i], centre) for i in rows) / len(x)
        if all(torch.equal(r[i], r[0]) for i in rows):
            spread = torch.ones(())
        for i in rows:
            one = squared_distance(x[i], y[i]) + squared_distance(x[i], z[i]) / 8 + beta * squared_distance(e[i], r[i]) / spread
            total = total + one / len(x) / len(codes)
    return total
