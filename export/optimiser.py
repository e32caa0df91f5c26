"""Adam over named tensors whose rows may come and go."""

from __future__ import annotations

import torch
from torch import Tensor

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-15  # 3D Gaussian splatting's epsilon: gradients of single Gaussians are tiny


class Adam:
    """State per name: first and second moment, and per-name step count. Rates may be tensors that broadcast."""

    def __init__(self) -> None:
        self.first: dict[str, Tensor] = {}
        self.second: dict[str, Tensor] = {}
        self.count: dict[str, int] = {}

    @torch.no_grad()
    def step(self, parameters: dict[str, Tensor], rates: dict[str, float | Tensor]) -> None:
        """Moves every parameter that has a gradient and a rate, and forgets the gradients."""
        for name, parameter in parameters.items():
            if parameter.grad is None or name not in rates:
                continue
            if name not in self.first:
                self.first[name], self.second[name] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                self.count[name] = 0
            gradient, first, second = parameter.grad, self.first[name], self.second[name]
            self.count[name] += 1
            count = self.count[name]
            first.lerp_(gradient, 1 - BETA_1)
            second.mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
            size = (second / (1 - BETA_2**count)).sqrt_().add_(EPSILON)
            parameter.sub_((first / (1 - BETA_1**count)).mul_(rates[name]).div_(size))
            parameter.grad = None

    def reindex(self, names: tuple[str, ...], keep: Tensor, added: int) -> None:
        """Rows `keep` stay with their moments, then come `added` fresh ones."""
        for name in names:
            for state in (self.first, self.second):
                if name in state:
                    old = state[name][keep]
                    state[name] = torch.cat((old, old.new_zeros(added, *old.shape[1:])))

    def tensors(self) -> dict[str, Tensor]:
        """Everything to save, by name."""
        out = {f"first.{name}": value for name, value in self.first.items()}
        out |= {f"second.{name}": value for name, value in self.second.items()}
        return out | {f"count.{name}": torch.tensor(value) for name, value in self.count.items()}

    def load(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Takes what `tensors` gave."""
        for key, value in tensors.items():
            kind, name = key.split(".", 1)
            if kind == "count":
                self.count[name] = int(value)
            else:
                getattr(self, kind)[name] = value.to(device)
