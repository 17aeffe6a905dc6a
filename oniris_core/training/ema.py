"""Power-function averages of the weights (arXiv 2312.02696, section 3.1)."""

import copy

import torch
from torch import nn


def exponent_of_width(width: float) -> float:
    """The exponent gamma whose averaging profile t^gamma has the relative standard deviation `width`.

    Solves width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) (eq. 126) by bisection; 0 < width < 0.28.
    """
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        variance = (middle + 1) / ((middle + 2) ** 2 * (middle + 3))
        low, high = (middle, high) if variance > width**2 else (low, middle)
    return (low + high) / 2


class PowerEma:
    """A running average of a model's parameters with the profile t^gamma over the steps so far."""

    def __init__(self, model: nn.Module, width: float):
        self.width = width
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._gamma = exponent_of_width(width)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the parameters after step `step` (from 0): the first ones whole (beta = (1 - 1/t)^(gamma + 1))."""
        weight = 1 - (1 - 1 / (step + 1)) ** (self._gamma + 1)
        averages, current = ([p.detach() for p in m.parameters()] for m in (self.model, model))
        torch._foreach_lerp_(averages, current, weight)
        for average, value in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(value)
