"""Noise levels of the sampler (arXiv 2206.00364, eq. 5)."""

import torch
from torch import Tensor


def sigma_schedule(steps: int, sigma_max: float, sigma_min: float, rho: float) -> Tensor:
    """Float64 [steps + 1]: from sigma_max down to sigma_min along a power law of exponent rho, then 0."""
    ramp = torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)
    sigmas = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)])
