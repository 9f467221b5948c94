"""The optimizer of a training: AdamW, or Muon for the layers' matrices with AdamW for the rest."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from . import checkpoint
from .muon import Muon
from .precision import compute_dtype

OptimizerName = Literal["adamw", "muon"]
_STATE = {torch.optim.AdamW: ("exp_avg", "exp_avg_sq"), Muon: ("momentum_buffer",)}
"""What each keeps for a parameter beside the number of steps, which the loop knows."""


def matrices(model: Any) -> list[str]:
    """Names of the parameters that Muon is for: two dimensions, neither embedding nor output head."""
    tables = {id(each.weight) for each in (model.get_input_embeddings(), model.get_output_embeddings()) if each}
    return [name for name, each in model.named_parameters() if each.dim() == 2 and id(each) not in tables]


class Optimizers:
    """Steps all ``parameters``; ``matrices`` are the names that Muon takes when ``name`` is muon.

    What Muon multiplies in is measured, once for a checkpoint ``folder``
    (:func:`inhouse_torch.precision.compute_dtype`).
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        *,
        name: OptimizerName = "adamw",
        matrices: Collection[str] = (),
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        folder: Path | None = None,
    ) -> None:
        taken = {each: parameters[each] for each in matrices} if name == "muon" else {}
        rest = {each: parameter for each, parameter in parameters.items() if each not in taken}
        self._all: list[tuple[torch.optim.Optimizer, Mapping[str, nn.Parameter]]] = []
        if taken:
            dtype = compute_dtype("auto", device=next(iter(taken.values())).device.type, folder=folder)
            self._all.append((Muon(taken.values(), lr=0.0, weight_decay=weight_decay, dtype=dtype), taken))
        if rest:
            adamw = torch.optim.AdamW(rest.values(), lr=0.0, weight_decay=weight_decay, betas=betas, fused=True)
            self._all.append((adamw, rest))

    def clip(self, limit: float) -> Tensor:
        """Scales all gradients to a norm of at most ``limit``; gives the norm that they had."""
        every = [each for _, parameters in self._all for each in parameters.values()]
        return nn.utils.clip_grad_norm_(every, limit)

    def step(self, rate: float) -> None:
        """One update at a learning rate; gradients are gone after it."""
        for optimizer, _ in self._all:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for optimizer, _ in self._all:
            optimizer.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """``KIND.PARAMETER`` -> tensor, for a checkpoint."""
        return {
            f"{kind}.{name}": optimizer.state[parameter][kind]
            for optimizer, parameters in self._all
            for name, parameter in parameters.items()
            for kind in _STATE[type(optimizer)]
        }

    def restore(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Takes up what :meth:`state` gave after ``steps`` steps. Raises ``ArtifactError`` where it does not fit."""
        for optimizer, parameters in self._all:
            for name, parameter in parameters.items():
                state = {kind: torch.empty_like(parameter, requires_grad=False) for kind in _STATE[type(optimizer)]}
                for kind, tensor in state.items():
                    checkpoint.restore({name: tensor}, tensors, f"{kind}.")
                if isinstance(optimizer, torch.optim.AdamW):
                    state["step"] = torch.tensor(float(steps), device=parameter.device)  # fused AdamW wants it there
                optimizer.state[parameter] = state
