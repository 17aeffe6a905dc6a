"""Power-function averages of the weights (arXiv 2312.02696, section 3.1)."""

import copy
from pathlib import Path

import torch
from torch import nn

from oniris_core.common.power_average import exponent_of_width


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

    def lost(self, steps: int) -> Path | None:  # noqa: ARG002
        """A file of the first `steps` steps that an average needs beside the checkpoint, and that is gone or damaged."""
        return None
