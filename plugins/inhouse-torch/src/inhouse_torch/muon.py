"""Muon: momentum whose direction is made orthogonal, for the matrices of a transformer's layers.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; the learning rate is scaled as in Liu et al.
2025, arXiv:2502.16982, so that one rate serves Muon and AdamW. The same update as ``torch.optim.Muon`` with
``adjust_lr_fn="match_rms_adamw"``, which always iterates in bfloat16: on a processor without bf16 products
that is twenty times slower. Matrices of one shape go through the iteration as one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5


def orthogonal(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Roughly U V^T of each matrix U S V^T of (N, rows, columns), by five Newton-Schulz steps in ``dtype``."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.to(dtype)
    x = x.transpose(1, 2) if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(_STEPS):
        gram = torch.bmm(x, x.transpose(1, 2))
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Optimizer):
    """For parameters of two dimensions; ``dtype`` is what the iteration is computed in.

    Weight decay is decoupled. State: ``momentum_buffer``, of the parameter's shape.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._dtype = dtype
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update, with Nesterov momentum."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for alike in shapes.values():
                self._update(alike, group)

    def _update(self, alike: list[Tensor], group: dict[str, Any]) -> None:
        directions = []
        for parameter in alike:
            assert parameter.grad is not None
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
            directions.append(parameter.grad.lerp(momentum, group["momentum"]))
        scale = 0.2 * max(alike[0].shape) ** 0.5
        for parameter, update in zip(alike, orthogonal(torch.stack(directions), self._dtype), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] * scale)
