"""DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2; here without a scale, alpha = 1) for any denoising function."""

import math
from collections.abc import Callable

from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]
"""(x, sigma) to the expected clean x."""

Observer = Callable[[int, float, Tensor, Tensor], None]
"""(step, sigma, x, denoised) at every noise level."""


def dpm_solver(denoise: Denoise, x: Tensor, sigmas: Tensor, observe: Observer | None = None) -> Tensor:
    """Follow the probability flow from noise level sigmas[0] to the last, with one evaluation a level.

    Between two levels x moves towards what is denoised, x <- r x + (1 - r) D with r the ratio of the levels, which is exact
    for a constant D. From the second step on, D is continued along a line in ln sigma through its last two values (second
    order). Unlike a slope at the lower level, however far the two lie apart, D cannot shoot beyond what the network says by
    more than that line does: few steps are safe.

    Args:
        denoise: the denoising function.
        x: noised at sigmas[0].
        sigmas: [N + 1], falling; at a last 0, x becomes what is denoised.
        observe: told of every step.

    Returns:
        x at the last noise level.
    """
    before, came = None, 0.0  # what the level above gave, and how far it lies above, in ln sigma
    for step, (sigma, below) in enumerate(zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True)):
        denoised = denoise(x, sigma)
        if observe is not None:
            observe(step, sigma, x, denoised)
        if below == 0:
            return denoised
        goes, ratio = math.log(sigma / below), below / sigma
        ahead = denoised if before is None else denoised + goes / (2 * came) * (denoised - before)
        x = ratio * x + (1 - ratio) * ahead
        before, came = denoised, goes
    return x
